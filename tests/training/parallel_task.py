"""A small Space-Time U-Net trained by one or several processes, as a program."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.elastic.multiprocessing.api import PContext

from lumiere.config import LaunchConfig, RuntimeConfig, TextOptimConfig
from lumiere.data.shards import ALL
from lumiere.diffusion.objective import make_scheduler
from lumiere.errors import LumiereError
from lumiere.models import SpaceTimeUNet
from lumiere.models.unet_builders import build_text_to_image_unet
from lumiere.training.examples import Text
from lumiere.training.launch import end_with_launcher, is_launched, run_in_processes
from lumiere.training.loop import train
from lumiere.training.space_time_task import SpaceTimeTask
from tests.full_disk import fill_disk

CONFIG = TextOptimConfig(
    steps=8, batch_size=4, warmup_steps=2, checkpoint_every=3, log_every=1, validate_every=4, learning_rate=1e-2,
    ema_decay=0.5,
)  # fmt: skip


GRACE = 1  # seconds from SIGTERM to SIGKILL for what is left when a process failed: torch's fixed 30 prove no more
ACTIONS = {
    "full": fill_disk,  # of the first process, which writes
    "hang": lambda: time.sleep(100),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "term": lambda: os.kill(os.getppid(), signal.SIGTERM),  # the launcher, as a scheduler would
}


class MemoryClips:
    """Random clips of three frames of 8 x 8 pixels, with a caption each."""

    def __init__(self, number: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.videos = torch.randint(
            0, 256, (number, 3, 3, 8, 8), generator=generator, dtype=torch.uint8
        )
        self.embeds = torch.randn(number, 1, 4, 32, generator=generator)
        self.shards, self.num_frames = [str(i // 2) for i in range(number)], 3
        self.buckets = [0] * number
        self.null_text: Text = torch.zeros(4, 32), torch.tensor([1, 1, 0, 0])

    def __len__(self) -> int:
        return len(self.videos)

    def video(self, i: int, frames: slice = ALL) -> Tensor:
        return self.videos[i][:, frames]

    def text(self, i: int) -> Text:
        return self.embeds[i], torch.ones(1, 4, dtype=torch.int64)


def make_task() -> SpaceTimeTask:
    """The same weights and data each time."""
    torch.manual_seed(0)
    unet = SpaceTimeUNet.from_unet2d(build_text_to_image_unet(8, (16, 32), 1, 32))
    with torch.no_grad():  # away from the start, where most gradients are zero
        for parameter in unet.temporal_parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    task = SpaceTimeTask(
        "parallel", unet, make_scheduler(), MemoryClips(7, 0), MemoryClips(3, 1), CONFIG
    )
    task.validation_clips = 5
    return task


def digest(tensors: dict[str, Tensor]) -> str:
    """Of the bits."""
    sums = hashlib.sha256()
    for name in sorted(tensors):
        sums.update(name.encode() + tensors[name].detach().contiguous().numpy().tobytes())
    return sums.hexdigest()


def main(argv: list[str] | None = None) -> None:
    """Train; with --processes as many of it. Each writes what it saw, learned and logged beside `out`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument(
        "--at", type=int, default=-1, help="step at which a process, the second, does --action"
    )
    parser.add_argument("--action", default="")
    arguments = parser.parse_args(argv)
    if arguments.processes > 1 and not is_launched():
        PContext.close.__defaults__ = (None, GRACE)
        try:
            run_in_processes("tests.training.parallel_task", sys.argv[1:], arguments.processes)
        except LumiereError as error:
            sys.exit(str(error))
        return

    if is_launched():
        end_with_launcher()
    rank, task = os.environ.get("RANK", "0"), make_task()
    plain, seen = task.example, []

    def example(position: int) -> dict[str, Tensor]:
        seen.append(position)
        acts = rank == ("0" if arguments.action == "full" else "1")
        if acts and position // CONFIG.batch_size == arguments.at and len(seen) > 2:
            ACTIONS[arguments.action]()
        return plain(position)

    task.example = example  # type: ignore[method-assign]
    task.config = replace(CONFIG, optimizer=arguments.optimizer)
    launch = LaunchConfig(
        arguments.processes, arguments.strategy, arguments.precision, arguments.parts
    )
    before = digest(dict(task.network.unet.state_dict()))
    logged: list[float] = []
    result = train(
        task, arguments.out.with_suffix(""), lambda metrics, step: logged.append(step), launch,
        RuntimeConfig(timeout_s=8.0),
    )  # fmt: skip
    weights = {name: value.detach() for name, value in task.network.state_dict().items()}
    about = {
        "losses": result.losses, "validation": result.validation, "logged": logged, "seen": seen,
        "resumed_from": result.resumed_from, "weights": digest(weights), "class": type(task.network).__name__,
        "frozen": before == digest(dict(task.network.unet.state_dict())),
        "norm": float(sum(value.double().square().sum() for value in weights.values())),
    }  # fmt: skip
    arguments.out.with_suffix(f".{rank}.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main()

"""A real but small training, and a program in which it is killed in the middle, or the disk gets full."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import stages
from lumiere.config import RuntimeConfig, TextOptimConfig
from lumiere.diffusion.objective import make_scheduler
from lumiere.models.unet_builders import build_text_to_image_unet
from lumiere.training import checkpoint
from lumiere.training.diffusion_task import Batch
from lumiere.training.examples import Pictures
from lumiere.training.image_task import TextToImageTask
from lumiere.training.loop import train
from tests.full_disk import fill_disk

# log_every does not divide checkpoint_every: a log window is open at most checkpoints.
CONFIG = TextOptimConfig(
    steps=12,
    batch_size=2,
    warmup_steps=3,
    checkpoint_every=4,
    log_every=3,
    validate_every=5,
    learning_rate=1e-3,
    text_dropout=0.0,
)

TWO_LEVELS = (16, 32)  # channels


def make_task(held_out: int = 1, channels: tuple[int, ...] = (16,)) -> TextToImageTask:
    """A text-to-image U-Net on random pictures, the same each time.

    Args:
        held_out: number of pictures to validate on.
        channels: of each level. One level has 58 thousand parameters, and its step takes half the
            time of a step of two levels, which have 0.3 million.
    """
    generator = torch.Generator().manual_seed(0)

    null = torch.zeros(4, 32), torch.tensor([1, 1, 0, 0])

    def pictures(subjects: int) -> Pictures:
        videos = torch.randint(
            0, 256, (subjects, 8, 8, 3), generator=generator, dtype=torch.uint8
        ).numpy()
        prompts = (
            torch.randn(subjects, 4, 32, generator=generator),
            torch.ones(subjects, 4, dtype=torch.int64),
        )
        return Pictures(videos, prompts, null)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet: Any = build_text_to_image_unet(8, channels, 1, 32)
    task = TextToImageTask("small", unet, make_scheduler(), pictures(3), pictures(held_out), CONFIG)
    task.validation_clips = 5  # no multiple of a batch
    return task


class Stop(Exception):
    """What ends a training from within, as a bug or Ctrl-C would."""


def at_step(task: TextToImageTask, step: int, action: Any) -> TextToImageTask:
    """The task with `action()` done before the first example of `step`."""
    plain = task.example

    def example(position: int) -> Batch:
        if position == step * CONFIG.batch_size:
            action()
        return plain(position)

    task.example = example  # type: ignore[method-assign]
    return task


def kill() -> None:
    """SIGKILL: nothing can be tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(where: str, scratch: Path) -> None:
    """Train until killed: in the middle of step 7 ("step"), or while the checkpoint of step 8 is written ("save").

    "group": until a signal goes to the training and to the workers that read for it. "full": until the disk is full,
    between the checkpoints of steps 4 and 8.
    """
    task, workers = make_task(), 0
    if where == "step":
        at_step(task, 6, kill)
    elif where == "full":
        at_step(task, 6, fill_disk)
    elif where == "group":
        workers, losses = 1, task.losses

        def signal_all(network: Any, batch: Batch) -> Tensor:
            if (scratch / "step-0000004").exists() and not (scratch / "signalled").exists():
                (scratch / "signalled").touch()
                os.killpg(0, signal.SIGTERM)
            return losses(network, batch)

        task.losses = signal_all  # type: ignore[method-assign]
    else:
        fsync = os.fsync

        def die_at_step_8(descriptor: int) -> None:
            fsync(descriptor)
            if (scratch / "step-0000004").exists():
                kill()

        checkpoint.os.fsync = die_at_step_8  # type: ignore[attr-defined]
    train(task, scratch, runtime=RuntimeConfig(workers=workers))


if __name__ == "__main__":
    stages.run(lambda: main(sys.argv[1], Path(sys.argv[2])))

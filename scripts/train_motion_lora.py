"""Train a motion LoRA: small adapters of the temporal layers that learn a kind of motion from a
handful of clips, on a network that stays frozen.

    PYTHONPATH=. python scripts/train_motion_lora.py --clips outputs/clips --only "aerial_*" \\
        --network outputs/conditioned --out motions/tram
    >>> pipe.load_lora_weights("motions/tram", adapter_name="tram")
    >>> pipe.set_adapters("tram", 0.8)

The clips are those of the stage `decode`. A call that was stopped continues where it was.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from lumiere.config import RuntimeConfig, TextOptimConfig, TrainConditionedConfig, to_dict
from lumiere.data.clips import ClipStore
from lumiere.data.frame_sizes import shorter_side
from lumiere.data.shards import read_info
from lumiere.errors import DataError, run_program
from lumiere.models import SpaceTimeUNet
from lumiere.models.autoencoder import load_vae, vae_factor
from lumiere.models.text_to_image import load_scheduler
from lumiere.plurals import counted
from lumiere.training.checkpoint import fingerprint
from lumiere.training.conditioned_task import ConditionedTask
from lumiere.training.examples import StoredClips
from lumiere.training.loop import train
from lumiere.training.lora import MOTION, add_motion_lora
from lumiere.training.loss_curves import write_record
from lumiere.training.space_time_task import SpaceTimeTask

NAME = "motion_lora"


def choose(folder: Path, split: str, only: Sequence[str]) -> ClipStore:
    """Open the clips of a split whose `clip_id` matches one of the patterns; all if there are none.

    Raises:
        DataError: if `folder` has no finished clips.
    """
    store = ClipStore(folder, split)
    if only:
        chosen = []
        for entry in store.entries:
            clip_id = read_info(folder, entry)["clip_id"]
            if any(fnmatch(clip_id, pattern) for pattern in only):
                chosen.append(entry)
        store.entries = chosen
    return store


def make_task(
    network: SpaceTimeUNet, folder: Path, stores: Sequence[ClipStore], optim: TextOptimConfig
) -> SpaceTimeTask:
    """Make the training that made the network, on the chosen clips; `folder` is the network's.

    Clips keep their own shapes. They are scaled until the shorter side of their main size is the
    network's.

    Raises:
        DataError: if a side of a clip would not be a whole number of pixels.
    """
    vae = load_vae(folder / "vae")
    size = shorter_side(network.unet.config.sample_size) * vae_factor(vae)
    clips = [StoredClips(store, size, RuntimeConfig().cache_mb) for store in stores]
    given = (NAME, network, load_scheduler(folder / "scheduler"), *clips, optim, vae)
    if not network.config.conditioning_channels:
        return SpaceTimeTask(*given)
    return ConditionedTask(*given, mask_weights=TrainConditionedConfig().mask_weights)


def train_motion(
    clips: Path,
    network_folder: Path,
    out: Path,
    only: Sequence[str],
    rank: int,
    optim: TextOptimConfig,
    scratch: Path,
) -> None:
    """Train adapters, and write them to `out` with the losses.

    Args:
        clips: the output of the stage `decode`.
        network_folder: a Space-Time U-Net, as the trainings write it.
        out: folder for the adapters.
        only: patterns of `clip_id`, such as "horse*"; empty for all clips.
        rank: of the adapters.
        optim: the settings of the training.
        scratch: folder for the training state.

    Raises:
        DataError: if no clip to train on matches.
    """
    stores = [choose(clips, split, only) for split in ("train", "validation")]
    if not len(stores[0]):
        names = [read_info(clips, entry)["clip_id"] for entry in ClipStore(clips).entries[:5]]
        raise DataError(
            f"{clips}: no clip to train on matches {', '.join(only)}; its clips are called "
            f"{', '.join(names)} ..."
        )
    network = SpaceTimeUNet.from_pretrained(network_folder, torch_dtype=torch.float32)
    torch.manual_seed(optim.seed)
    add_motion_lora(network, rank)
    task = make_task(network, network_folder, stores, optim)
    settings: dict[str, Any] = {"optim": to_dict(optim), "rank": rank, "only": sorted(only)}
    settings |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    state = scratch / fingerprint(settings, [clips, network_folder])
    # A handful of clips stays in memory, so no process needs to read ahead.
    result = train(task, state, runtime=RuntimeConfig(workers=0))
    out.mkdir(parents=True, exist_ok=True)
    network.save_lora_adapter(out, MOTION)
    write_record(out, NAME, result)
    shutil.rmtree(state, ignore_errors=True)
    print(f"{counted(len(stores[0]), 'clip')}, {result.summary()}; {out}")


def run(arguments: argparse.Namespace) -> None:
    """Check the numbers of the command line, and train."""
    for name in ("rank", "steps", "batch_size"):
        if getattr(arguments, name) < 1:
            option = f"--{name.replace('_', '-')}"
            raise DataError(f"{option} is {getattr(arguments, name)}; allowed: at least 1")
    if not 0 < arguments.learning_rate < math.inf:
        raise DataError(f"--learning-rate is {arguments.learning_rate}; allowed: above 0")
    optim = TextOptimConfig(
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        weight_decay=0.0,
        ema_decay=0.98,
        text_dropout=0.1,
        seed=arguments.seed,
    )
    train_motion(
        arguments.clips,
        arguments.network,
        arguments.out,
        arguments.only,
        arguments.rank,
        optim,
        arguments.scratch,
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, required=True, help="output of the stage decode")
    parser.add_argument("--network", type=Path, required=True, help="the frozen Space-Time U-Net")
    parser.add_argument("--out", type=Path, required=True, help="folder for the adapters")
    parser.add_argument("--only", nargs="*", default=[], help="patterns of clip_id, as 'horse*'")
    parser.add_argument("--rank", type=int, default=8, help="rank of the adapters")
    parser.add_argument("--steps", type=int, default=200, help="training steps")
    parser.add_argument("--batch-size", type=int, default=2, help="clips in a step")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument(
        "--scratch", type=Path, default=Path(".lumiere/scratch") / NAME, help="training state"
    )
    run_program(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    main()

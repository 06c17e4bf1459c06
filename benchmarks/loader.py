"""Compares the time to load a batch with the time to train on it, at the sizes of the demo.

    python benchmarks/loader.py            # after `make demo`, which decodes the clips

Loading reads the shards, decompresses, resizes, draws the examples and batches them. It is measured
without a cache (`cache_mb: 0`), as for clips that do not fit in memory, and once with a cache. The
training step is that of `train_base`, and its time is a median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import default_collate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import benchmarks  # noqa: F401  a script has to import it itself, before diffusers

# isort: split

from lumiere.config import RuntimeConfig, load_params
from lumiere.models import SpaceTimeUNet
from lumiere.models.pretrained import load_text_to_image
from lumiere.training.examples import open_clips
from lumiere.training.loader import Positions, make_loader
from lumiere.training.space_time_task import SpaceTimeTask
from lumiere.training.state import trained_parameters


def seconds_per_batch(task: SpaceTimeTask, batches: int, workers: int) -> float:
    """Return the mean seconds per batch of a loader that always has to deliver the next one.

    It divides the total time, because workers read several batches at once.
    """
    positions = Positions(range(batches + 4), task.config.batch_size, 1)
    loader = iter(make_loader(task, positions, RuntimeConfig(workers=workers), torch.device("cpu")))
    for _ in range(4):  # until the workers have started
        next(loader)
    started = time.perf_counter()
    for _ in range(batches):
        next(loader)
    return (time.perf_counter() - started) / batches


def seconds_per_step(task: SpaceTimeTask, steps: int) -> float:
    """Return the median seconds of forward, backward and optimizer, on a batch in memory."""
    parameters = list(trained_parameters(task.network).values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)
    batch = default_collate([task.example(i) for i in range(task.config.batch_size)])
    times = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        task.losses(task.network, batch).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--clips", type=Path, default=Path("outputs/clips"), help="the decoded clips"
    )
    parser.add_argument("--t2i", type=Path, default=Path("pretrained/t2i"), help="the image model")
    parser.add_argument("--batches", type=int, default=60, help="batches to load (default: 60)")
    parser.add_argument("--steps", type=int, default=12, help="steps to train (default: 12)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    if not (arguments.clips / "index.json").is_file():
        sys.exit(
            f"{arguments.clips}: no decoded clips; run `make demo` first, or name a folder with --clips"
        )

    config, t2i = load_params().train_base, load_text_to_image(arguments.t2i)
    unet = SpaceTimeUNet.from_unet2d(t2i.unet)

    def task(cache_mb: float) -> SpaceTimeTask:
        clips = open_clips(arguments.clips, t2i.unet.config.sample_size, cache_mb)
        return SpaceTimeTask("train_base", unet, t2i.scheduler, *clips, config.optim)

    step = seconds_per_step(task(0), arguments.steps)
    rows: list[dict[str, Any]] = []
    for label, cache_mb, workers in (
        ("in the training process", 0, 0), ("one worker", 0, 1), ("two workers", 0, 2),
        ("in the training process, clips in memory", 512, 0),
    ):  # fmt: skip
        loading = task(cache_mb)
        if cache_mb:
            # A first epoch fills the cache.
            seconds_per_batch(loading, len(loading.train_data) // config.optim.batch_size, 0)
        seconds = seconds_per_batch(loading, arguments.batches, workers)
        rows.append(
            {"reader": label, "ms_per_batch": 1000 * seconds, "steps_per_batch": step / seconds}
        )

    print(
        f"batch of {config.optim.batch_size} clips, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(
        f"training step {1000 * step:.0f} ms\n\n| read | per batch | times faster than the step |\n|---|---|---|"
    )
    for row in rows:
        print(f"| {row['reader']} | {row['ms_per_batch']:.1f} ms | {row['steps_per_batch']:.1f} |")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"step_ms": 1000 * step, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()

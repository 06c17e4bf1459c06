"""Compare a finished video of the default settings with one of `lumiere generate --fast`.

    PYTHONPATH=. python -m benchmarks.fast                    # the weights of `pretrained/`
    PYTHONPATH=. python -m benchmarks.fast --model outputs/pipeline --rounds 5

Both make the same prompt with the same seed, in one process, in turn. *Call* is a call of the
pipeline from the prompt to the frames, with super-resolution, and *base* one without it. *Whole
command* is the command itself in a process of its own: with imports, loading of the weights, and
writing of the file. CPU seconds, which other work on the machine disturbs less, are those of all
threads. Ratios are medians over the rounds of the default's seconds divided by the other's.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lumiere.cli.model import Model

PROMPT = "a red fox runs"
NAMES = ("default", "--fast")


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """Return the wall seconds and the CPU seconds that a call takes, with its child processes."""
    wall, before = time.perf_counter(), os.times()
    run()
    cpu = sum(os.times()[:4]) - sum(before[:4])
    return time.perf_counter() - wall, cpu


def command(name: str, model: str, threads: int, folder: str) -> Callable[[], Any]:
    """Return a function that runs the whole command."""
    words = [sys.executable, "-m", "lumiere.cli", "generate", PROMPT, "--seed", "0"]
    words += ["--model", model, "--device", "cpu"]
    words += [name] if name.startswith("--") else []
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    numbers = itertools.count()  # a file that exists would not be made again

    def run() -> None:
        path = Path(folder) / f"{name.strip('-')}-{next(numbers)}.mp4"
        subprocess.run([*words, "--output", str(path)], check=True, env=env, capture_output=True)

    return run


def calls(name: str, model: str) -> dict[str, Callable[[], Any]]:
    """Return functions that call the pipeline, by the name of what they measure."""
    pipe = Model.choose(model, "cpu", name == "--fast").pipe
    pipe.set_progress_bar_config(disable=True)

    def call(upscale: bool) -> Any:
        return pipe(PROMPT, upscale=upscale, generator=torch.Generator().manual_seed(0))

    return {"base": lambda: call(False), "call": lambda: call(True)}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        default="demo",
        help="a saved pipeline (default: demo, the weights in pretrained/)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        runs = [calls(name, arguments.model) for name in NAMES]
        for name, run in zip(NAMES, runs, strict=True):
            run["whole command"] = command(name, arguments.model, arguments.threads, folder)
        for run in runs:
            run["call"]()  # warms up
        print(
            f"{arguments.model}, {arguments.threads} threads on a CPU, torch {torch.__version__}, "
            f"{arguments.rounds} rounds\n"
        )
        print("| | " + " | ".join(f"{name}, seconds (CPU)" for name in NAMES) + " | ratio (CPU) |")
        print("|---|---:|---:|---:|")
        for part in runs[0]:
            taken = [[seconds(run[part]) for run in runs] for _ in range(arguments.rounds)]
            cells = [part.capitalize()]
            for column in zip(*taken, strict=True):
                wall, cpu = (statistics.median(each) for each in zip(*column, strict=True))
                cells.append(f"{wall:.1f} ({cpu:.1f})")
            wall, cpu = (
                statistics.median(slow[kind] / fast[kind] for slow, fast in taken)
                for kind in (0, 1)
            )
            print(f"| {' | '.join(cells)} | {wall:.1f} ({cpu:.1f}) |", flush=True)


if __name__ == "__main__":
    main()

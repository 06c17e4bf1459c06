"""Measures what generation costs beyond the calls of its networks, with the weights of `pretrained/`.

    python benchmarks/generate.py                            # all parts; about ten minutes on two cores
    python benchmarks/generate.py --quick                    # tiny sizes, to check that everything runs
    python benchmarks/generate.py --device cuda --full       # on a GPU; also the paper's size, by part

Overhead compares a call of the pipeline with a plain loop, which calls the same networks as often
on inputs of the same shapes and does nothing else. The two take turns in being first, and ratios
are medians over the rounds. Overhead is given in two ways: compared with that loop, which includes
the noise of the machine, and as the time outside the networks within the same call, which does not.
Prompts are encoded beforehand.

Memory is the growth of the peak of a process (VmHWM, Linux) over one call. Each call has a process
of its own, which has loaded the weights and made a tiny video. On a GPU, it is the peak of the
allocator. The growth per frame is also given in float32 videos: n videos are n buffers as large as
the result.

`--full` needs a GPU. On a CPU it only tries the code, at toy sizes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import benchmarks  # noqa: F401  a script has to import it itself, before diffusers

# isort: split

import diffusers
import torch
from diffusers import UNet2DConditionModel

from benchmarks.demo import BATCH_SIZES, Demo, add_growth, measure_memory
from benchmarks.overhead import Case, overhead
from lumiere.diffusion.objective import make_scheduler
from lumiere.models import SpaceTimeUNet
from lumiere.pipelines import LumierePipeline

PARTS = ["overhead", "windows", "memory"]
WINDOW_STEPS = 2  # of super-resolution, in the part `windows`
# The options that --quick changes.
QUICK = {
    "frames": 4, "steps": 2, "ssr_steps": 1, "rounds": 1, "window_frames": 14, "memory_frames": [4, 8],
    "base_window": 4,
}  # fmt: skip
# The paper's sizes, with a U-Net as wide as that of Stable Diffusion.
FULL = {"width": 320, "size": 128, "ssr_size": 1024, "num_frames": 80, "steps": 20, "ssr_steps": 8}
TOY = {"width": 8, "size": 16, "ssr_size": 32, "num_frames": 10, "steps": 2, "ssr_steps": 2}


# --- the paper's size ------------------------------------------------------------------------------------------------


def random_pipeline(
    width: int, size: int, ssr_size: int, num_frames: int, text_dim: int = 1024
) -> LumierePipeline:
    """Build a pipeline in pixel space whose networks have the given width and random weights."""
    common: dict[str, Any] = {
        "block_out_channels": (width, 2 * width, 4 * width, 4 * width), "out_channels": 3,
        "norm_num_groups": math.gcd(32, width), "cross_attention_dim": text_dim, "attention_head_dim": 8,
    }  # fmt: skip
    base = UNet2DConditionModel(sample_size=size, in_channels=3, **common)
    ssr = UNet2DConditionModel(
        sample_size=ssr_size, in_channels=6, class_embed_type="timestep", mid_block_type=None,
        down_block_types=("DownBlock2D",) * 4, up_block_types=("UpBlock2D",) * 4, **common,
    )  # fmt: skip
    unet = SpaceTimeUNet.from_unet2d(base, conditioning_channels=4).eval()
    ssr_unet = SpaceTimeUNet.from_unet2d(ssr, temporal_resampling=False).eval()
    return LumierePipeline(
        unet, make_scheduler(), None, ssr_unet, make_scheduler(), num_frames=num_frames
    )


def full_run(
    device: torch.device,
    width: int,
    size: int,
    ssr_size: int,
    num_frames: int,
    steps: int,
    ssr_steps: int,
) -> dict[str, Any]:
    """Time one text-to-video call with super-resolution in bfloat16, by part.

    Returns:
        Seconds by part, and the peak memory in bytes on a GPU (None on a CPU).
    """
    torch.manual_seed(0)
    pipe = random_pipeline(width, size, ssr_size, num_frames).to(device, torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    text: dict[str, Any] = {
        name: torch.randn(1, 77, 1024) for name in ("prompt_embeds", "negative_prompt_embeds")
    }

    def run() -> None:
        pipe(
            **text,
            num_frames=num_frames,
            num_inference_steps=steps,
            ssr_steps=ssr_steps,
            ssr_batch_size=1,
            output_type="pt",
        )

    case = Case("full", run, [pipe.unet, pipe.ssr_unet], device)
    # A first call lets the libraries choose their kernels.
    pipe(**text, num_frames=num_frames, num_inference_steps=1, ssr_steps=1, ssr_batch_size=1)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    total = case.time_run()
    base, ssr = case.in_network(0), case.in_network(1)
    return {
        "seconds": total,
        "base network": base,
        "base sampler": case.span(0) - base,
        "super-resolution network": ssr,
        "super-resolution sampler": case.span(1) - ssr,
        "before, between and after": total - case.span(0) - case.span(1),
        "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
    }


# --- report ----------------------------------------------------------------------------------------------------------


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table, row by row as the figures come in."""
    print(f"\n**{title}**\n")
    for cells in itertools.chain([header, ["---"] * len(header)], rows):
        print(f"| {' | '.join(cells)} |", flush=True)


def report_overhead(demo: Demo, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Compare the pipeline with its networks."""
    cases = demo.cases(arguments.frames, arguments.steps, arguments.ssr_steps)
    rows = overhead(cases, arguments.rounds)
    sizes = f"{arguments.frames} frames, {arguments.steps} base and {arguments.ssr_steps} super-resolution steps"
    table(
        f"The pipeline compared with bare calls of its networks, {sizes}; the goal is at most 5 %",
        ["", "calls", "pipeline", "bare calls", "overhead", "outside the networks"],
        [
            [
                row["name"], str(row["network_calls"]), f"{row['seconds']:.3f} s", f"{row['bare_seconds']:.3f} s",
                f"{row['overhead_against_loop']:.1%}", f"{row['overhead_outside_networks']:.1%}",
            ]
            for row in rows
        ],
    )  # fmt: skip
    return rows


def report_windows(demo: Demo, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Compare super-resolution with one, some and all windows in a forward pass."""
    num_frames = arguments.window_frames
    cases = demo.windows(num_frames, WINDOW_STEPS)
    times = [[case.time_run() for case in cases] for _ in range(arguments.rounds + 1)]
    del times[0]  # the first round warms up
    rows: list[dict[str, Any]] = []
    for index, size in enumerate(BATCH_SIZES):
        memory = measure_memory(
            arguments.device, arguments.threads, "ssr", num_frames, size, arguments.base_window
        )
        rows.append(
            {
                "windows": cases[index].name,
                "seconds": statistics.median(each[index] for each in times),
                "against_one": statistics.median(each[index] / each[0] for each in times),
                **memory,
            }
        )
    table(
        f"Super-resolution of {num_frames} frames, {WINDOW_STEPS} steps",
        ["windows in a pass", "seconds", "time against one", "peak MiB beyond the weights"],
        [
            [
                row["windows"],
                f"{row['seconds']:.3f}",
                f"{row['against_one']:.2f}×",
                mebibytes(row["peak_bytes"]),
            ]
            for row in rows
        ],
    )
    return rows


def report_memory(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the peak memory for several numbers of frames.

    One window is processed at a time, so the network does the same work at every length.
    """
    rows: list[dict[str, Any]] = []

    def lines() -> Iterator[list[str]]:
        for kind, num_frames in itertools.product(("ssr", "base"), arguments.memory_frames):
            row = measure_memory(
                arguments.device, arguments.threads, kind, num_frames, 1, arguments.base_window
            )
            if rows and rows[-1]["pass"] == kind:
                add_growth(rows[-1], row)
            rows.append(row)
            beyond = row["peak_bytes"] - row["video_bytes"]
            growth = ["", ""]
            if "videos" in row:
                growth = [f"{row['bytes_per_frame']:,.0f}", f"{row['videos']:.1f}"]
            yield [
                kind,
                str(num_frames),
                *map(mebibytes, (row["video_bytes"], row["peak_bytes"], beyond)),
                *growth,
            ]

    table(
        f"Peak memory; super-resolution, and the base in windows of {arguments.base_window}; one window at a time",
        ["pass", "frames", "video, MiB", "peak MiB beyond the weights", "without the video", "bytes per further frame",
         "in float32 videos"],
        lines(),
    )  # fmt: skip
    per_frame = {row["pass"]: row["video_bytes"] // row["num_frames"] for row in rows}
    print(
        "\nBytes of a frame, float32 and uint8: "
        + "; ".join(f"{kind} {size:,} and {size // 4:,}" for kind, size in per_frame.items())
    )
    return rows


def report_full(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the paper's size, by part."""
    sizes = FULL | {"width": arguments.width} if arguments.device == "cuda" else TOY
    made = full_run(torch.device(arguments.device), **sizes)
    parts = [name for name in made if name not in ("seconds", "peak_bytes")]
    table(
        "{num_frames} frames of {size} × {size} to {ssr_size} × {ssr_size} pixels, U-Nets {width} wide, bfloat16, "
        "{steps} and {ssr_steps} steps, by part".format(**sizes)
        + (
            ""
            if arguments.device == "cuda"
            else "; toy sizes, which only try the code: do not quote these figures"
        ),
        ["part", "seconds", "share"],
        [[name, f"{made[name]:.3f}", f"{made[name] / made['seconds']:.1%}"] for name in parts]
        + [
            [
                "all",
                f"{made['seconds']:.3f}",
                f"peak MiB with weights: {mebibytes(made['peak_bytes'])}",
            ]
        ],
    )
    return sizes | made


def mebibytes(size: int | None) -> str:
    """Format a size in bytes as MiB."""
    return "not measured" if size is None else f"{size / 2**20:,.1f}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts",
        nargs="*",
        choices=PARTS,
        default=PARTS,
        help="what to measure (default: all); give no part to measure --full alone",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=16,
        help="frames of the clip whose overhead is measured (default: 16)",
    )
    parser.add_argument(
        "--steps", type=int, default=20, help="steps of the base model (default: 20)"
    )
    parser.add_argument(
        "--ssr-steps", type=int, default=8, help="steps of super-resolution (default: 8)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: 7)")
    parser.add_argument(
        "--window-frames",
        type=int,
        default=80,
        help="frames of the clip in the part windows (default: 80)",
    )
    parser.add_argument(
        "--memory-frames",
        type=int,
        nargs="+",
        default=[16, 80, 320],
        help="frames in the part memory (default: 16 80 320)",
    )
    parser.add_argument(
        "--base-window",
        type=int,
        default=16,
        help="frames of a base window (default: 16)",
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--full",
        action="store_true",
        help="also measure the paper's size, by part; on a CPU, toy sizes",
    )
    parser.add_argument(
        "--width",
        type=int,
        default=FULL["width"],
        help="width of the networks of --full (default: 320)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, whatever the other options say"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        vars(arguments).update(QUICK)
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print a Markdown table for each part."""
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    where = (
        torch.cuda.get_device_name() if arguments.device == "cuda" else f"{platform.machine()} CPU"
    )
    print(
        f"{where}, {arguments.threads} threads, float32; torch {torch.__version__}, diffusers {diffusers.__version__}"
    )
    figures: dict[str, Any] = {
        "device": where,
        "threads": arguments.threads,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
    demo = Demo(torch.device(arguments.device))
    if "overhead" in arguments.parts:
        figures["overhead"] = report_overhead(demo, arguments)
    if "windows" in arguments.parts:
        figures["windows"] = report_windows(demo, arguments)
    if "memory" in arguments.parts:
        figures["memory"] = report_memory(arguments)
    del demo  # so that its weights do not count below
    if arguments.full:
        figures["full"] = report_full(arguments)
    if arguments.device == "cpu":
        print("\nCUDA, bfloat16 and the paper's size (--full) need a GPU and were not measured.")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

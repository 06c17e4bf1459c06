"""Compares networks in one run: the image model per frame, AnimateDiff, lumiere-pytorch and ours.

    python benchmarks/models.py                        # both frame counts, forward and training step
    python benchmarks/models.py --frames 16 --repeats 3 --json out.json
    python benchmarks/models.py --device cuda          # also a training step at the width of SD 1.5

All are built on the same text-to-image U-Net with random weights (4.58M parameters; 32/64/128
channels; 32 x 32 pixels; 32 text tokens of width 384). The contenders take turns, round by round,
so that other work on the machine slows all of them alike. Times are medians over the rounds.

A training step is forward, backward and AdamW, for the motion or temporal layers only. The step of
the image model trains all its weights, so it is not comparable. Memory is the growth of the peak of
a process over one call, each in a process of its own; on a GPU, it is the peak of the allocator.
torch.utils.flop_counter counts the FLOPs. benchmarks/large.py describes the large step.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import benchmarks  # noqa: F401  a script has to import it itself, before diffusers

# isort: split

import diffusers
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import large
from benchmarks.memory import in_a_process, peak, start_peak
from benchmarks.peers import TEXT_TOKENS, TEXT_WIDTH, animate_diff, image_model, lumiere_pytorch
from lumiere.models import SpaceTimeUNet

Call = Callable[[], Tensor]
SIZE = 32


class Contender:
    """A network that is measured.

    Attributes:
        name: as in the tables.
        network: the network.
        trained: the parameters that a training step updates.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        torch.manual_seed(0)
        unet2d = image_model().to(device)
        self.name, self.device = name, device
        self.is_image_model = name.startswith("T2I")
        if self.is_image_model:
            self.network: nn.Module = unet2d
            if name.endswith("NHWC"):  # the memory format that ours has
                self.network.to(memory_format=torch.channels_last)
        elif name == "AnimateDiff":
            self.network = animate_diff(unet2d)
        elif name == "lumiere-pytorch":
            self.network = lumiere_pytorch(unet2d, SIZE)
        else:
            # 16 layers of temporal attention in the mid block bring ours to the size of its peers.
            layers = 16 if name.endswith("1.4M") else 3
            self.network = SpaceTimeUNet.from_unet2d(unet2d, mid_attention_layers=layers)
        self.network.to(device)
        self.trained = self._trained(unet2d)
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        for parameter in self.trained:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5)

    def _trained(self, unet2d: nn.Module) -> list[nn.Parameter]:
        if isinstance(self.network, SpaceTimeUNet):
            return list(self.network.temporal_parameters())
        if self.is_image_model:
            return list(self.network.parameters())
        if self.name == "AnimateDiff":
            return [p for name, p in self.network.named_parameters() if "motion_modules" in name]
        return list(self.network.parameters())  # lumiere-pytorch only lists its temporal ones

    def inputs(self, num_frames: int) -> tuple[Tensor, Tensor]:
        """Return a clip (1, 3, t, 32, 32) and text states (1, 32, 384), the same each time."""
        generator = torch.Generator().manual_seed(0)
        video = torch.randn(1, 3, num_frames, SIZE, SIZE, generator=generator)
        text = torch.randn(1, TEXT_TOKENS, TEXT_WIDTH, generator=generator)
        return video.to(self.device), text.to(self.device)

    def forward(self, num_frames: int) -> Tensor:
        """Call the network on one clip."""
        video, text = self.inputs(num_frames)
        if self.is_image_model:
            frames = video[0].transpose(0, 1).contiguous()
            return self.network(frames, 500, text.expand(num_frames, -1, -1)).sample
        if self.name == "lumiere-pytorch":
            return self.network(video, text=text)
        if self.name == "AnimateDiff":  # expects the text once per frame
            return self.network(video, 500, text.expand(num_frames, -1, -1)).sample
        return self.network(video, 500, text).sample

    def step(self, num_frames: int) -> Tensor:
        """Train on one clip, and return the loss."""
        self.optimizer.zero_grad()
        loss = self.forward(num_frames).square().mean()
        loss.backward()
        self.optimizer.step()
        return loss

    def run(self, mode: str, num_frames: int) -> None:
        """Call ("forward") or train ("step") the network once, and wait for the GPU."""
        if mode == "forward":
            with torch.no_grad():
                self.forward(num_frames)
        else:
            self.step(num_frames)
        if self.device.type == "cuda":
            torch.cuda.synchronize()


NAMES = ["T2I per frame", "T2I, NHWC", "AnimateDiff", "lumiere-pytorch", "ours, 0.6M", "ours, 1.4M"]


def count_flops(contender: Contender, num_frames: int) -> int:
    """Count the multiplications and additions of a forward pass."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        contender.forward(num_frames)
    return counter.get_total_flops()


def memory_of(name: str, mode: str, num_frames: int, device: str, threads: int, pipe: Any) -> None:
    """Send the peak memory of one call, in MiB, beyond what this process used before."""
    torch.set_num_threads(threads)
    contender = Contender(name, torch.device(device))
    # The libraries and the optimizer allocate their own memory here.
    contender.run(mode, 1 if name != "lumiere-pytorch" else 4)
    before = start_peak(contender.device)
    contender.run(mode, num_frames)
    pipe.send(peak(contender.device) - before)


def measure_memory(name: str, mode: str, num_frames: int, device: str, threads: int) -> float:
    """Run `memory_of` in a process of its own."""
    return in_a_process(memory_of, name, mode, num_frames, device, threads)


def build_contenders(device: torch.device) -> list[Contender]:
    """Build all networks; leave out a peer whose package is not installed."""
    contenders = []
    for name in NAMES:
        try:
            contenders.append(Contender(name, device))
        except ImportError as error:
            print(f"left out: {name}: {error}; run pip install -e '.[bench]' to include it")
    return contenders


def time_in_turns(
    contenders: list[Contender], mode: str, num_frames: int, rounds: int
) -> dict[str, list[float]]:
    """Time each contender in each round, and return the seconds by name."""
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds + 1):
        for contender in contenders:
            started = time.perf_counter()
            contender.run(mode, num_frames)
            times[contender.name].append(time.perf_counter() - started)
    return {name: values[1:] for name, values in times.items()}  # the first round warms up


def compare(arguments: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Measure, print a table for each mode and frame count, and return all rows."""
    contenders = build_contenders(device)
    where = f"{platform.machine()} CPU"
    if device.type == "cuda":
        where = torch.cuda.get_device_name()
    print(f"{where}, {arguments.threads} threads, float32", end="; ")
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}")
    rows: list[dict[str, Any]] = []
    for mode in arguments.modes:
        for num_frames in arguments.frames:
            rows += compare_calls(contenders, mode, num_frames, arguments)
    return rows


def compare_calls(
    contenders: list[Contender], mode: str, num_frames: int, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Measure one kind of call, print its table, and return its rows."""
    times = time_in_turns(contenders, mode, num_frames, arguments.repeats)
    reference = statistics.median(times["T2I per frame"])
    print(f"\n{mode}, 1 clip of {num_frames} frames")
    print(f"{'':18}{'trained':>9}{'median':>10}{'range':>16}{'T2I / it':>10}", end="")
    print(f"{'MiB':>8}{'GFLOP':>8}{'GFLOP/s':>9}")
    rows: list[dict[str, Any]] = []
    for contender in contenders:
        seconds = statistics.median(times[contender.name])
        gflop = mebibytes = None
        if mode == "forward":
            gflop = count_flops(contender, num_frames) / 1e9
        if not arguments.no_memory:
            mebibytes = measure_memory(
                contender.name, mode, num_frames, arguments.device, arguments.threads
            )
        row = {
            "mode": mode,
            "num_frames": num_frames,
            "name": contender.name,
            "trained_parameters": sum(p.numel() for p in contender.trained),
            "seconds": seconds,
            "speed_against_t2i": reference / seconds,
            "peak_mib": mebibytes,
            "gflop": gflop,
        }
        print_row(row, times[contender.name])
        rows.append(row)
    return rows


def print_row(row: dict[str, Any], times: list[float]) -> None:
    """Print one line of a table; unmeasured figures stay empty."""
    mebibytes = "" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
    gflop = rate = ""
    if row["gflop"] is not None:
        gflop, rate = f"{row['gflop']:.1f}", f"{row['gflop'] / row['seconds']:.1f}"
    print(
        f"{row['name']:18}{row['trained_parameters'] / 1e6:8.2f}M{row['seconds']:9.3f}s"
        f"{min(times):8.3f}–{max(times):.3f}{row['speed_against_t2i']:10.2f}"
        f"{mebibytes:>8}{gflop:>8}{rate:>9}",
        flush=True,
    )


def main() -> None:
    """Compare the small networks, and measure the large one if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--frames", type=int, nargs="+", default=[16, 80], help="frames of a clip (default: 16 80)"
    )
    parser.add_argument(
        "--modes", nargs="+", choices=["forward", "step"], default=["forward", "step"]
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument(
        "--large",
        choices=[*large.SIZES, "none"],
        help="size of the large step (default: sd15 on a GPU, none on a CPU)",
    )
    parser.add_argument("--only-large", action="store_true", help="leave out the comparison")
    parser.add_argument(
        "--no-compile",
        action="store_true",
        help="measure the large step only without torch.compile",
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)

    rows = [] if arguments.only_large else compare(arguments, device)
    size = arguments.large or ("sd15" if device.type == "cuda" else "none")
    if size != "none":
        rows += large.main(size, device, arguments.repeats, not arguments.no_compile)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

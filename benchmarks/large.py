"""Measures a training step as wide as Stable Diffusion 1.5, in pixels: time, peak memory and MFU.

The image model is frozen and the temporal layers are trained, with gradient checkpointing and
AdamW, in bfloat16. Utilisation (MFU) divides the floating-point operations per second of a step by
those of a dense bfloat16 matrix product, measured in the same process. What checkpointing computes
a second time does not count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory import peak, start_peak
from lumiere.models import SpaceTimeUNet

DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Size:
    """A network and its clip. The finest level has no attention, as is usual in pixel space."""

    widths: tuple[int, ...]
    layers_per_block: int
    groups: int
    num_frames: int
    pixels: int  # height = width
    text: tuple[int, int]  # tokens, width
    matmul: int  # rows = columns of the matrices whose product is the reference of MFU


SIZES = {
    "sd15": Size((320, 640, 1280, 1280), 2, 32, 80, 128, (77, 768), 8192),
    # Tries the code without a GPU.
    "tiny": Size((16, 32, 32, 32), 1, 8, 8, 16, (5, 32), 256),
}


def build(size: Size) -> SpaceTimeUNet:
    """Build the network with random weights."""
    attending = len(size.widths) - 1
    unet2d = UNet2DConditionModel(
        sample_size=size.pixels,
        in_channels=3,
        out_channels=3,
        block_out_channels=size.widths,
        layers_per_block=size.layers_per_block,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * attending),
        up_block_types=(*["CrossAttnUpBlock2D"] * attending, "UpBlock2D"),
        cross_attention_dim=size.text[1],
        attention_head_dim=8,  # in diffusers this is the number of heads
        norm_num_groups=size.groups,
    )
    return SpaceTimeUNet.from_unet2d(unet2d.to(DTYPE)).train()


def make_inputs(size: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Make a clip (1, 3, t, h, w) and its text states (1, n, d)."""
    video = torch.randn(1, 3, size.num_frames, size.pixels, size.pixels, device=device, dtype=DTYPE)
    return video, torch.randn(1, *size.text, device=device, dtype=DTYPE)


def loss_of(network: Any, video: Tensor, text: Tensor) -> Tensor:
    """Return the mean square of the network's output."""
    timestep = torch.full((1,), 500, device=video.device)
    return network(video, timestep, text).sample.float().square().mean()


def count_step_flops(size: Size) -> int:
    """Count the operations of forward and backward without checkpointing, from shapes only."""
    with torch.device("meta"):
        model = build(size)
    with FlopCounterMode(display=False) as counter:
        loss_of(model, *make_inputs(size, torch.device("meta"))).backward()
    return counter.get_total_flops()


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(call: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Time a call several times."""
    times = []
    for _ in range(repeats):
        synchronise(device)
        started = time.perf_counter()
        call()
        synchronise(device)
        times.append(time.perf_counter() - started)
    return times


def matmul_rate(side: int, device: torch.device) -> float:
    """Return the operations per second of the fastest of 20 dense products."""
    left, right = (torch.randn(side, side, device=device, dtype=DTYPE) for _ in range(2))
    return 2 * side**3 / min(seconds_of(lambda: left @ right, device, 20))


def measure_step(
    size: Size, device: torch.device, compiled: bool, repeats: int
) -> tuple[float, float, float]:
    """Return the seconds of the first step, the median of the later ones, and their peak in MiB."""
    torch.compiler.reset()
    model = build(size).to(device)
    model.enable_gradient_checkpointing()
    network = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.temporal_parameters(), lr=1e-5, fused=True)
    inputs = make_inputs(size, device)

    def step() -> None:
        optimizer.zero_grad()
        loss_of(network, *inputs).backward()
        optimizer.step()

    (first,) = seconds_of(step, device, 1)
    start_peak(device)
    return first, statistics.median(seconds_of(step, device, repeats)), peak(device)


def main(name: str, device: torch.device, repeats: int, compile_too: bool) -> list[dict[str, Any]]:
    """Measure without and with `torch.compile`, print a line for each, and return the rows."""
    size = SIZES[name]
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        print(
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB; CUDA {torch.version.cuda}",
            end="; ",
        )
        print(f"cuDNN {torch.backends.cudnn.version()}", end="; ")
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}")
    flops, rate = count_step_flops(size), matmul_rate(size.matmul, device)
    clip = f"{size.num_frames} x {size.pixels} x {size.pixels}"
    print(f"{name}, widths {size.widths}, 1 clip of {clip}, {DTYPE}, gradient checkpointing")
    print(
        f"a step needs {flops / 1e12:.3g} TFLOP; a {size.matmul}² product runs at {rate / 1e12:.3g} TFLOP/s"
    )
    rows = []
    for compiled in (False, True)[: 1 + compile_too]:
        first, seconds, mebibytes = measure_step(size, device, compiled, repeats)
        row: dict[str, Any] = {
            "compiled": compiled,
            "first_seconds": first,
            "seconds": seconds,
            "peak_mib": mebibytes,
        }
        row |= {
            "size": name,
            "tflop": flops / 1e12,
            "matmul_tflops": rate / 1e12,
            "mfu": flops / seconds / rate,
        }
        rows.append(row)
        print(
            f"torch.compile {'on ' if compiled else 'off'}  step {seconds:.3f} s (the first {first:.1f} s)  "
            f"peak {mebibytes:.0f} MiB  MFU {row['mfu']:.1%}",
            flush=True,
        )
    return rows

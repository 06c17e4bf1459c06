"""Compare ways to run super-resolution: quality against CPU seconds.

    PYTHONPATH=. python -m benchmarks.super_resolution --clips outputs/clips

Held-out clips are shrunk to the size of the base model and enlarged again with the demo weights, one
clip at a time in one thread. PSNR is that of the real clip. *Change*, the mean difference of
neighbouring frames, and *sharpness*, the mean absolute Laplacian, are divided by those of the real
clip. *Corners* is the standard deviation inside a corner of 10 x 10 pixels, in grey levels.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lumiere.pipelines.assemble import demo_pipeline
from lumiere.pipelines.pipeline_output import LumiereUpscalePipelineOutput
from lumiere.training.examples import open_clips

CORNER = slice(2, 12)
CACHE_MB = 512
# steps, frames of a window, frames that windows share, precision
WAYS = (
    (4, 8, 2, torch.float32),
    (2, 8, 2, torch.float32),
    (2, 16, 0, torch.float32),
    (2, 16, 0, torch.bfloat16),
    (1, 16, 0, torch.bfloat16),
)


def main() -> None:
    """Enlarge, measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, required=True, help="output of the decode stage")
    parser.add_argument("--count", type=int, default=6, help="clips (default: 6)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipe = demo_pipeline()
    upscaler = pipe.upscaler()
    upscaler.set_progress_bar_config(disable=True)
    size, low_size = (network.unet.config.sample_size for network in (pipe.ssr_unet, pipe.unet))
    _, held_out = open_clips(arguments.clips, size, CACHE_MB)
    real = torch.stack([held_out.video(i) for i in range(arguments.count)])
    real = real.transpose(1, 2).float() / 255  # b t c h w
    low = resize(real, low_size, "area")

    print("| steps | window | precision | CPU seconds | PSNR, dB | change | sharpness | corners |")
    print("|---:|---:|---|---:|---:|---:|---:|---:|")
    for steps, window, overlap, dtype in WAYS:
        torch.nn.Module.to(upscaler.unet, dtype)  # that of diffusers warns without cause
        made, began = [], time.process_time()
        for seed in range(len(low)):
            generator = torch.Generator().manual_seed(seed)
            output = upscaler(
                low[seed : seed + 1],
                num_inference_steps=steps,
                window_size=window,
                overlap=overlap,
                generator=generator,
                output_type="pt",
            )
            assert isinstance(output, LumiereUpscalePipelineOutput)
            made.append(output.frames)
        seconds = (time.process_time() - began) / len(low)
        name = str(dtype).removeprefix("torch.")
        show(f"| {steps} | {window} | {name} | {seconds:.1f}", torch.cat(made).float(), real)
    show("| | bicubic | |", resize(low, size, "bicubic").clamp(0, 1), real)


def resize(video: Tensor, size: int, mode: str) -> Tensor:
    """Resize a video (b, t, c, h, w) to `size` x `size`."""
    return interpolate(video.flatten(0, 1), (size, size), mode=mode).unflatten(0, video.shape[:2])


def show(row: str, made: Tensor, real: Tensor) -> None:
    """Complete a row of the table with the scores of videos (b, t, c, h, w) in [0, 1]."""
    errors = (made - real).square().mean(dim=(1, 2, 3, 4))
    psnr = -10 * errors.log10().mean()
    changes = change(made) / change(real)
    sharp = sharpness(made) / sharpness(real)
    corners = 255 * made[..., CORNER, CORNER].std(dim=(3, 4)).mean()
    print(f"{row} | {psnr:.1f} | {changes.mean():.2f} | {sharp:.2f} | {corners:.1f} |", flush=True)


def change(video: Tensor) -> Tensor:
    """Return the mean difference of neighbouring frames, by clip."""
    return video.diff(dim=1).abs().mean(dim=(1, 2, 3, 4))


def sharpness(video: Tensor) -> Tensor:
    """Return the mean absolute Laplacian."""
    vertical = video[..., :-2, 1:-1] + video[..., 2:, 1:-1]
    horizontal = video[..., 1:-1, :-2] + video[..., 1:-1, 2:]
    return (4 * video[..., 1:-1, 1:-1] - vertical - horizontal).abs().mean()


if __name__ == "__main__":
    main()

"""The demo's pipeline, the calls of it that are measured, and what they take in memory."""

from __future__ import annotations

import ctypes
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import in_a_process
from benchmarks.overhead import Case
from lumiere.pipelines.assemble import demo_pipeline

BATCH_SIZES = (1, 4, None)  # windows in a forward pass; None for all
PROMPT = "a penguin waddles from side to side"


class Demo:
    """The demo's pipeline and the calls of it that are measured."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pipe = demo_pipeline().to(device)
        self.pipe.set_progress_bar_config(disable=True)
        self.upscaler = self.pipe.upscaler()
        assert self.pipe.text_encoder is not None
        embeds, attended = self.pipe.text_encoder.encode([PROMPT, ""])
        self.text = {
            "prompt_embeds": embeds[:1], "prompt_attention_mask": attended[:1],
            "negative_prompt_embeds": embeds[1:], "negative_prompt_attention_mask": attended[1:],
        }  # fmt: skip
        self.size = self.pipe.unet.unet.config.sample_size

    def base(self, **options: Any) -> Tensor:
        """A video of the base size, or of the full one with upscale=True; plain guidance unless told otherwise."""
        options = {"upscale": False, "guidance_rescale": 0.0, **self.text, **options}
        return self.pipe(generator=torch.Generator().manual_seed(0), **options).frames

    def upscale(self, num_frames: int, steps: int, batch_size: int | None = 4) -> Tensor:
        """A video of noise, enlarged."""
        generator = torch.Generator().manual_seed(0)
        low = torch.rand(1, num_frames, 3, self.size, self.size, generator=generator)
        return self.upscaler(
            low, num_inference_steps=steps, batch_size=batch_size, generator=generator
        ).frames

    def cases(self, num_frames: int, steps: int, ssr_steps: int) -> list[Case]:
        picture = torch.rand(1, 3, self.size, self.size, generator=torch.Generator().manual_seed(0))
        common = {"num_frames": num_frames, "num_inference_steps": steps}
        options: dict[str, dict[str, Any]] = {
            "text to video": {},
            "with guidance rescale": {"guidance_rescale": 0.7},
            "with known pixels held": {"image": picture, "image_strength": 1.0},
            "with super-resolution": {"upscale": True, "ssr_steps": ssr_steps},
        }
        networks = [self.pipe.unet, self.pipe.ssr_unet]
        cases = [
            Case(name, partial(self.base, **common, **own), networks, self.device)
            for name, own in options.items()
        ]
        alone = partial(self.upscale, num_frames, ssr_steps)
        return [*cases, Case("super-resolution alone", alone, networks, self.device)]

    def windows(self, num_frames: int, steps: int) -> list[Case]:
        """Super-resolution with one window, some, and all windows in a forward pass."""
        return [
            Case(
                str(size or "all"), partial(self.upscale, num_frames, steps, size), [], self.device
            )
            for size in BATCH_SIZES
        ]

    def one_pass(
        self, kind: str, num_frames: int, batch_size: int | None, window_size: int
    ) -> Tensor:
        """`kind`: "ssr", or "base" in windows. Two steps: what a step leaves behind is there in the second."""
        if kind == "ssr":
            return self.upscale(num_frames, 2, batch_size)
        options = {
            "window_size": window_size,
            "overlap": min(2, window_size - 1),
            "batch_size": batch_size,
        }
        return self.base(num_frames=num_frames, num_inference_steps=2, **options)


# --- memory ----------------------------------------------------------------------------------------------------------


def peak_bytes() -> int:
    """The largest resident size that this process has had since it was last made to forget it; Linux."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def memory_here(
    demo: Demo, kind: str, num_frames: int, batch_size: int | None, window_size: int
) -> dict[str, Any]:
    """Peak memory of a pass beyond what was there before, and the size of its video, bytes."""
    demo.one_pass(kind, 2, batch_size, 2)  # libraries' own buffers are there before
    if demo.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        # What was freed goes back, so that it does not count as there before.
        ctypes.CDLL(None).malloc_trim(0)
        # The peak starts anew, at what is there.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = peak_bytes()
    video = demo.one_pass(kind, num_frames, batch_size, window_size)
    after = torch.cuda.max_memory_allocated() if demo.device.type == "cuda" else peak_bytes()
    return {
        "pass": kind, "num_frames": num_frames, "batch_size": batch_size,
        "peak_bytes": after - before, "video_bytes": video.numel() * 4,
    }  # fmt: skip


def _child(device: str, threads: int, job: tuple[Any, ...], sender: Any) -> None:
    torch.set_num_threads(threads)
    sender.send(memory_here(Demo(torch.device(device)), *job))


def measure_memory(device: str, threads: int, *job: Any) -> dict[str, Any]:
    """`memory_here` in a process of its own."""
    # glibc would keep freed blocks below 32 MiB: up to 150 MiB that no tensor has. Read as the child starts.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**18))
    return in_a_process(_child, device, threads, job)


def add_growth(earlier: dict[str, Any], row: dict[str, Any]) -> None:
    """What a frame more costs since a shorter clip of the same pass, in bytes and in float32 videos."""
    per_frame = (row["peak_bytes"] - earlier["peak_bytes"]) / (
        row["num_frames"] - earlier["num_frames"]
    )
    row["bytes_per_frame"] = per_frame
    row["videos"] = per_frame / (row["video_bytes"] / row["num_frames"])

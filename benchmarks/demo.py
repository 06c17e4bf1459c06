"""Makes the calls of the demo's pipeline that `generate.py` measures, and measures their memory."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import in_a_process, peak, start_peak
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
        """Make a video of the base size, or of the full size with `upscale=True`.

        Guidance is not rescaled unless `options` says so.
        """
        options = {
            "upscale": False, "guidance_rescale": 0.0, "output_type": "pt", **self.text, **options,
        }  # fmt: skip
        output: Any = self.pipe(generator=torch.Generator().manual_seed(0), **options)
        return output.frames

    def upscale(self, num_frames: int, steps: int, batch_size: int | None = 4) -> Tensor:
        """Enlarge a video of noise."""
        generator = torch.Generator().manual_seed(0)
        low = torch.rand(1, num_frames, 3, self.size, self.size, generator=generator)
        output: Any = self.upscaler(
            low,
            num_inference_steps=steps,
            batch_size=batch_size,
            generator=generator,
            output_type="pt",
        )
        return output.frames

    def cases(self, num_frames: int, steps: int, ssr_steps: int) -> list[Case]:
        """Return the calls whose overhead is measured."""
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
        """Return super-resolution with one, some and all windows in a forward pass."""
        return [
            Case(
                str(size or "all"), partial(self.upscale, num_frames, steps, size), [], self.device
            )
            for size in BATCH_SIZES
        ]

    def one_pass(
        self, kind: str, num_frames: int, batch_size: int | None, window_size: int
    ) -> Tensor:
        """Make one video: with `kind` "ssr" enlarged, with "base" of the base size, in windows.

        It takes two steps, so that the second one meets whatever the first one keeps.
        """
        if kind == "ssr":
            return self.upscale(num_frames, 2, batch_size)
        options = {
            "window_size": window_size,
            "overlap": min(2, window_size - 1),
            "batch_size": batch_size,
        }
        return self.base(num_frames=num_frames, num_inference_steps=2, **options)


# --- memory ----------------------------------------------------------------------------------------------------------


def memory_here(
    demo: Demo, kind: str, num_frames: int, batch_size: int | None, window_size: int
) -> dict[str, Any]:
    """Measure the peak memory of a pass beyond that before it, and the size of its video, in bytes."""
    demo.one_pass(kind, 2, batch_size, 2)  # libraries allocate their own buffers here
    before = start_peak(demo.device, trim=True)
    video = demo.one_pass(kind, num_frames, batch_size, window_size)
    growth = peak(demo.device) - before
    return {
        "pass": kind, "num_frames": num_frames, "batch_size": batch_size,
        "peak_bytes": round(growth * 2**20), "video_bytes": video.numel() * 4,
    }  # fmt: skip


def _child(device: str, threads: int, job: tuple[Any, ...], sender: Any) -> None:
    torch.set_num_threads(threads)
    sender.send(memory_here(Demo(torch.device(device)), *job))


def measure_memory(device: str, threads: int, *job: Any) -> dict[str, Any]:
    """Run `memory_here` in a process of its own."""
    # glibc would keep freed blocks below 32 MiB, up to 150 MiB together that no tensor uses. The
    # child reads this variable when it starts.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**18))
    return in_a_process(_child, device, threads, job)


def add_growth(earlier: dict[str, Any], row: dict[str, Any]) -> None:
    """Add to `row` what each further frame costs, compared with a shorter clip of the same pass.

    The cost is given in bytes, and in float32 videos.
    """
    per_frame = (row["peak_bytes"] - earlier["peak_bytes"]) / (
        row["num_frames"] - earlier["num_frames"]
    )
    row["bytes_per_frame"] = per_frame
    row["videos"] = per_frame / (row["video_bytes"] / row["num_frames"])

"""A `LumierePipeline` from what the training stages wrote."""

from __future__ import annotations

from pathlib import Path

import torch

from lumiere.models import SpaceTimeUNet
from lumiere.models.text_to_image import load_scheduler
from lumiere.pipelines.pipeline_lumiere import LumierePipeline
from lumiere.text import load_text_encoder


def assemble_pipeline(
    base: Path, ssr: Path | None, styles: Path | None, num_frames: int, fps: int, ssr_window_size: int
) -> LumierePipeline:
    """Put the pieces together.

    Args:
        base: a base or conditioned network with `scheduler/` and `text_encoder/` beside it.
        ssr: a super-resolution network with `scheduler/`, or None.
        styles: a folder of spatial weights, `<name>.safetensors`, or None.
        num_frames, fps: what `base` was trained on.
        ssr_window_size: frames that `ssr` sees at a time.

    Raises:
        ValueError: when a piece is missing.
    """
    pipe = LumierePipeline(
        unet=SpaceTimeUNet.from_pretrained(base, torch_dtype=torch.float32),
        scheduler=load_scheduler(base / "scheduler"),
        text_encoder=load_text_encoder(base / "text_encoder"),
        ssr_unet=SpaceTimeUNet.from_pretrained(ssr, torch_dtype=torch.float32) if ssr else None,
        ssr_scheduler=load_scheduler(ssr / "scheduler") if ssr else None,
        num_frames=num_frames,
        fps=fps,
        ssr_window_size=ssr_window_size,
    )
    for path in sorted(styles.glob("*.safetensors")) if styles else ():
        pipe.add_style(path.stem, path)
    return pipe

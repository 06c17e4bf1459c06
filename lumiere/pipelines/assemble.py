"""A `LumierePipeline` from what the training stages wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lumiere.models import SpaceTimeUNet
from lumiere.models.text_to_image import load_scheduler
from lumiere.pipelines.pipeline_lumiere import LumierePipeline
from lumiere.text import load_text_encoder


def assemble_pipeline(base: Path, ssr: Path | None, styles: Path | None, **defaults: Any) -> LumierePipeline:
    """Put the pieces together.

    Args:
        base: a base or conditioned network with `scheduler/` and `text_encoder/` beside it.
        ssr: a super-resolution network with `scheduler/`, or None.
        styles: a folder of blends, as the stage `blend_style` writes it, or None.
        defaults: of a call, such as num_frames and guidance_scale; as in `LumierePipeline.__init__`.

    Raises:
        ValueError: when a piece is missing.
    """
    pipe = LumierePipeline(
        unet=SpaceTimeUNet.from_pretrained(base, torch_dtype=torch.float32),
        scheduler=load_scheduler(base / "scheduler"),
        text_encoder=load_text_encoder(base / "text_encoder"),
        ssr_unet=SpaceTimeUNet.from_pretrained(ssr, torch_dtype=torch.float32) if ssr else None,
        ssr_scheduler=load_scheduler(ssr / "scheduler") if ssr else None,
        **defaults,
    )
    if styles:
        pipe.styles.load(styles)
    return pipe

"""A `LumierePipeline` from the outputs of the training stages, or from the shipped weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lumiere.models import SpaceTimeUNet
from lumiere.models.autoencoder import load_vae
from lumiere.models.text_to_image import load_image_network, load_scheduler, load_text_to_image
from lumiere.pipelines.pipeline_lumiere import LumierePipeline
from lumiere.pipelines.styles import FOLDER
from lumiere.text import load_text_encoder

PRETRAINED = Path(__file__).resolve().parents[2] / "pretrained"  # beside the package, in a checkout
DEMO_PARTS = ("t2i", "temporal", "ssr_image", "temporal_ssr")
# These values suit the demo networks; `generate` in params.yaml has the same.
DEMO_DEFAULTS: dict[str, Any] = {"guidance_scale": 1.5, "image_strength": 0.7}


def assemble_pipeline(
    base: Path, ssr: Path | None, styles: Path | None, **defaults: Any
) -> LumierePipeline:
    """Put the pieces together.

    Args:
        base: a base or conditioned network with `scheduler/`, `text_encoder/` and, of a latent
            model, `vae/` beside it.
        ssr: a super-resolution network with `scheduler/`, or None.
        styles: a folder of blends, as the stage `blend_style` writes it, or None.
        defaults: of a call, such as num_frames and guidance_scale; as in
            `LumierePipeline.__init__`.

    Raises:
        ValueError: if a piece is missing.
    """
    pipe = LumierePipeline(
        unet=SpaceTimeUNet.from_pretrained(base, torch_dtype=torch.float32),
        scheduler=load_scheduler(base / "scheduler"),
        text_encoder=load_text_encoder(base / "text_encoder"),
        ssr_unet=SpaceTimeUNet.from_pretrained(ssr, torch_dtype=torch.float32) if ssr else None,
        ssr_scheduler=load_scheduler(ssr / "scheduler") if ssr else None,
        vae=load_vae(base / "vae"),
        **defaults,
    )
    if styles:
        pipe.styles.load(styles)
    return pipe


def demo_pipeline(pretrained: Path = PRETRAINED) -> LumierePipeline:
    """The demo model: its text-to-image and super-resolution networks, inflated.

    Its styles are the files of `styles/`, by their names.

    Raises:
        ValueError: if a part is missing.
    """
    for part in DEMO_PARTS:
        if not (pretrained / part).is_dir():
            raise ValueError(
                f"{pretrained / part}: no such folder; the demo weights come with the repository: install it from its "
                "checkout with `pip install -e .`, or name the folder of another model"
            )
    image_model = load_text_to_image(pretrained / "t2i")
    unet = SpaceTimeUNet.from_unet2d(
        image_model.unet, conditioning_channels=image_model.unet.config.in_channels + 1
    )
    unet.load_temporal(pretrained / "temporal")
    ssr_image, ssr_scheduler = load_image_network(pretrained / "ssr_image")
    ssr_unet = SpaceTimeUNet.from_unet2d(ssr_image, temporal_resampling=False)
    ssr_unet.load_temporal(pretrained / "temporal_ssr")
    pipe = LumierePipeline(
        unet=unet.eval(),
        scheduler=image_model.scheduler,
        text_encoder=load_text_encoder(pretrained / "t2i" / "text_encoder"),
        ssr_unet=ssr_unet.eval(),
        ssr_scheduler=ssr_scheduler,
        **DEMO_DEFAULTS,
    )
    for path in sorted((pretrained / FOLDER).glob("*.safetensors")):
        pipe.add_style(path.stem, path)
    return pipe

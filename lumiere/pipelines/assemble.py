"""Builds a `LumierePipeline` from the outputs of the training stages or from the demo weights."""

from __future__ import annotations

import copy
import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from lumiere.errors import DataError
from lumiere.files import content_hash
from lumiere.models import SpaceTimeUNet
from lumiere.models.autoencoder import load_vae
from lumiere.models.pretrained import load_text_to_image
from lumiere.models.text_to_image import load_image_network, load_scheduler
from lumiere.models.weights import CONFIG_FILE
from lumiere.pipelines.pipeline_lumiere import LumierePipeline
from lumiere.pipelines.styles import FOLDER
from lumiere.text import load_text_encoder

CHECKOUT_WEIGHTS = Path(__file__).resolve().parents[2] / "pretrained"
# A wheel has no weights. After installing a wheel, set this variable to the folder with the
# weights.
PRETRAINED = Path(os.environ.get("LUMIERE_PRETRAINED") or CHECKOUT_WEIGHTS)
DEMO_PARTS = ("t2i", "temporal", "ssr_image", "temporal_ssr")
# Settings that suit these networks: the values of `generate` in params.yaml.
DEMO_DEFAULTS: dict[str, Any] = {
    "timestep_power": 2.0,
    "guidance_scale": 2.0,
    "guidance_rescale": 0.0,
    "guidance_interval": [0.2, 0.9],
    "noise_correlation": 0.2,
    "motion_scale": 1.6,
    "motion_interval": [0.35, 0.95],
    "temporal_smoothing": 1.0,
    "smoothing_interval": [0.0, 0.3],
    "spatial_smoothing": 14.0,
    "image_strength": 0.7,
    "ssr_steps": 4,
    "ssr_noise_correlation": 1.0,
}


def assemble_pipeline(
    base: Path, ssr: Path | None, styles: Path | None, **defaults: Any
) -> LumierePipeline:
    """Build a pipeline from its parts.

    Args:
        base: the folder of a base or conditioned network, with `scheduler/`, `text_encoder/` and,
            for a latent model, `vae/` in it.
        ssr: the folder of a super-resolution network with `scheduler/` in it, or None.
        styles: a folder of blends, as written by the stage `blend_style`, or None.
        defaults: default arguments of a call, such as num_frames; see `LumierePipeline.__init__`.

    Raises:
        ValueError: if a part is missing.
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


def load_guide(unet: SpaceTimeUNet, folder: Path) -> SpaceTimeUNet:
    """Load a weaker network for autoguidance (`LumierePipeline.add_guide`).

    Args:
        unet: the base network.
        folder: a whole network, written by `save_pretrained`; or temporal weights for the image
            model of `unet`, written by `save_temporal`.

    Raises:
        ValueError: if a file is missing or does not fit.
    """
    if (folder / CONFIG_FILE).is_file():
        return SpaceTimeUNet.from_pretrained(folder, torch_dtype=unet.dtype)
    guide = copy.deepcopy(unet)
    guide.load_temporal(folder)
    return guide


def demo_pipeline(pretrained: Path = PRETRAINED) -> LumierePipeline:
    """Load the demo model: inflate its image networks and load their temporal weights.

    The files in `styles/` become its styles, by their names.

    Args:
        pretrained: the folder with the parts; by default `LUMIERE_PRETRAINED`, or else
            `pretrained/` of the checkout.

    Raises:
        DataError: if a part is missing.
    """
    for part in DEMO_PARTS:
        if not (pretrained / part).is_dir():
            raise DataError(
                f"{pretrained / part}: the demo weights are missing; set LUMIERE_PRETRAINED to the folder "
                "`pretrained` of a checkout of this project, or name another model with `--model FOLDER`"
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


def image_pipeline(t2i: Path) -> LumierePipeline:
    """Load a text-to-image model alone, with the demo's settings; it makes videos of one frame.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    model = load_text_to_image(t2i)
    return LumierePipeline(
        unet=SpaceTimeUNet.from_unet2d(model.unet, temporal_resampling=False).eval(),
        scheduler=model.scheduler,
        text_encoder=load_text_encoder(t2i / "text_encoder"),
        vae=model.vae,
        **DEMO_DEFAULTS,
    )


def hash_model(folder: Path | None) -> str:
    """Compute the SHA-256 over the names and contents of a saved pipeline's files, or of the demo
    weights if `folder` is None.
    """
    if folder is None:
        roots = [PRETRAINED / part for part in (*DEMO_PARTS, FOLDER)]
        digest = hashlib.sha256(repr(DEMO_DEFAULTS).encode())
    else:
        roots = [folder]
        digest = hashlib.sha256()
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.suffix in (".json", ".safetensors"):
                digest.update(f"{path.relative_to(root)} {content_hash(path)}\n".encode())
    return digest.hexdigest()

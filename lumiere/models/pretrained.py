"""Loads a text-to-image model from a folder of this project, a diffusers pipeline, or a hub."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL

from lumiere.models.diffusers_folders import read_stored_config
from lumiere.models.t2i_requirements import check_pixel_space, check_text_alone, text_width
from lumiere.models.text_to_image import TextToImage, load_networks
from lumiere.text import DiffusersTextEncoder
from lumiere.text.hub import pipeline_folder
from lumiere.text_config import CONFIG_NAME

PARTS = ("unet", "scheduler", "text_encoder", "vae")


def load_text_to_image(source: str | Path) -> TextToImage:
    """Load a T2I, in pixel space or with its VAE; the weights come from safetensors, in float32.

    Args:
        source: a folder that `TextToImage.save` wrote; a diffusers pipeline's folder with `unet/`,
            `scheduler/`, `text_encoder/`, `tokenizer/` and, for a latent model, `vae/`; or the hub
            name of such a pipeline.

    Raises:
        ValueError: if a part is missing, or the model cannot be trained on frames and sentences
            alone. This excludes super-resolution, inpainting, and conditions other than the text of
            one encoder.
    """
    folder = pipeline_folder(str(source))
    text_file = folder / "text_encoder" / CONFIG_NAME
    if text_file.is_file():
        return TextToImage.load(pipeline_folder(str(source), *PARTS))
    if not (folder / "text_encoder" / "config.json").is_file():
        raise ValueError(
            f"{folder}: neither text_encoder/{CONFIG_NAME} nor text_encoder/config.json is there; "
            "name a folder that prepare_t2i or a diffusers pipeline wrote, with unet/, scheduler/ "
            "and text_encoder/"
        )
    config, name = read_stored_config(folder / "unet"), str(folder / "unet")
    if (folder / "vae").is_dir():
        vae_config = read_stored_config(folder / "vae", AutoencoderKL)
        check_text_alone(config, name, vae_config["latent_channels"])
    else:
        check_pixel_space(config, name)
    encoder, width = DiffusersTextEncoder(str(source)), text_width(config)
    if width != encoder.embed_dim:
        raise ValueError(
            f"{name}: takes text {width} wide, but its text encoder gives {encoder.embed_dim}"
        )
    unet, scheduler, vae = load_networks(pipeline_folder(str(source), *PARTS, "tokenizer"))
    return TextToImage(unet, scheduler, encoder.name, encoder.max_tokens, vae=vae)

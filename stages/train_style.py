"""Stage `train_style`: the text-to-image model fine-tuned on the pictures of one style."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

import stages
from lumiere.config import load_params
from lumiere.data.captioned_pictures import load_captioned_folder
from lumiere.models.text_to_image import TextToImage
from lumiere.text import load_text_encoder
from lumiere.training.examples import Pictures
from lumiere.training.image_task import TextToImageTask
from lumiere.training.lora import add_lora, fuse_lora
from stages.training import training_stage

HELD_OUT_EVERY = 10  # every tenth picture is held out


def split(pictures: np.ndarray, embeds: Tensor, mask: Tensor) -> tuple[Pictures, Pictures]:
    """Split the pictures into those to train on and those held out.

    Args:
        pictures: uint8 (n, h, w, 3).
        embeds, mask: text states (n + 1, l, d) and masks (n + 1, l) of their captions and of the
            empty sentence.
    """
    is_held_out = np.arange(len(pictures)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    prompts, null_text = (embeds[:-1], mask[:-1]), (embeds[-1], mask[-1])

    def part(selection: np.ndarray) -> Pictures:
        texts = prompts[0][selection], prompts[1][selection]
        return Pictures(pictures[selection], texts, null_text)

    return part(~is_held_out), part(is_held_out)


def write(weights: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, path)


def main() -> None:
    """Parse, fine-tune, write."""
    arguments = stages.parse_arguments(
        __doc__,
        t2i="the text-to-image model",
        styles="folder with one folder per style",
        out="folder for the style's weights",
        scratch="training state",
    )
    params = load_params(arguments.params)
    config = params.train_style
    style_folder = arguments.styles / config.style
    inputs = [__file__, arguments.t2i, style_folder]
    with training_stage("train_style", arguments, params, inputs) as stage:
        with stages.reading(arguments.t2i):
            t2i = TextToImage.load(arguments.t2i)
            encoder = load_text_encoder(arguments.t2i / "text_encoder")
        with stages.blaming(arguments.params, "train_style.style"):
            pictures, captions = load_captioned_folder(style_folder, t2i.size)
        train_pictures, held_out = split(pictures, *encoder.encode([*captions, ""]))
        torch.manual_seed(config.optim.seed)
        if config.lora_rank:
            add_lora(t2i.unet, config.lora_rank)
        task = TextToImageTask(
            "train_style",
            t2i.unet,
            t2i.scheduler,
            train_pictures,
            held_out,
            config.optim,
            t2i.vae,
        )
        stage.train(task)
        if stage.is_main:
            if config.lora_rank:
                adapter = arguments.out / "lora" / f"{config.style}.lora.safetensors"
                write(fuse_lora(t2i.unet), adapter)
            write(t2i.unet.state_dict(), arguments.out / f"{config.style}.safetensors")


if __name__ == "__main__":
    stages.run(main)

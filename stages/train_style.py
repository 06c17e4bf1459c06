"""Stage `train_style`: the text-to-image model fine-tuned on the pictures of one style."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

import stages
from lumiere import tracking
from lumiere.config import ConfigError, load_params, to_dict
from lumiere.data.images import load_captioned_folder
from lumiere.models.text_to_image import load_text_to_image
from lumiere.text import load_text_encoder
from lumiere.training.run import StagedTraining
from lumiere.training.text_to_image import CaptionedImages, TextToImageTask


def main() -> None:
    """Parse, fine-tune, write."""
    arguments = parse_arguments()
    config = load_params(arguments.params).train_style
    with tracking.stage_run("train_style", to_dict(config)) as run:
        t2i = load_text_to_image(arguments.t2i)
        encoder = load_text_encoder(arguments.t2i / "text_encoder")
        try:
            pictures, captions = load_captioned_folder(arguments.styles / config.style, t2i.unet.config.sample_size)
        except ValueError as error:
            raise ConfigError(f"{arguments.params}: train_style.style: {error}") from None
        images = CaptionedImages.from_pairs(pictures, *encoder.encode(captions))
        torch.manual_seed(config.optim.seed)
        # Nothing is held out of so few pictures: the "held-out" curve of this training is on the pictures themselves.
        task = TextToImageTask(
            "train_style", t2i.unet, t2i.scheduler, images, images, encoder.encode([""]), config.optim
        )
        training = StagedTraining(arguments.scratch, to_dict(config), [arguments.t2i, arguments.styles / config.style])
        result = training.train(task, config.optim, run.log_metrics, arguments.out)
        save_file(
            {name: value.contiguous() for name, value in t2i.unet.state_dict().items()},
            arguments.out / f"{config.style}.safetensors",
        )
        run.log_artifact(arguments.out / "train_style.png")
        training.finish()
    loss = f"loss {result.losses[-1][1]:.4f} after " if result.losses else ""
    print(f"{loss}{result.steps} steps; {arguments.out}")


def parse_arguments() -> argparse.Namespace:
    """Paths as dvc.yaml gives them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--t2i", type=Path, required=True, help="the text-to-image model")
    parser.add_argument("--styles", type=Path, required=True, help="folder with one folder per style")
    parser.add_argument("--out", type=Path, required=True, help="folder for the style's weights")
    parser.add_argument("--scratch", type=Path, default=Path(".lumiere/scratch/train_style"), help="training state")
    return parser.parse_args()


if __name__ == "__main__":
    stages.run(main)

"""Stage `train_base`: the temporal layers of the base Space-Time U-Net."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import stages
from lumiere import tracking
from lumiere.config import ConfigError, load_params, to_dict
from lumiere.data.clips import ClipStore
from lumiere.models import SpaceTimeUNet
from lumiere.models.text_to_image import load_text_to_image, save_companions
from lumiere.text import load_text_encoder
from lumiere.training.run import StagedTraining
from lumiere.training.video import CaptionedVideos, SpaceTimeTask
from lumiere.training.warm_start import warm_start


def main() -> None:
    """Parse, inflate, train, write."""
    arguments = parse_arguments()
    config = load_params(arguments.params).train_base
    with tracking.stage_run("train_base", to_dict(config)) as run:
        t2i = load_text_to_image(arguments.t2i)
        torch.manual_seed(config.optim.seed)
        unet = SpaceTimeUNet.from_unet2d(t2i.unet, resampling_init=config.resampling_init)
        if config.init_from:
            try:
                warm_start(unet, config.init_from, input_only=False)
            except ValueError as error:
                raise ConfigError(f"{arguments.params}: train_base.init_from: {error}") from None
        stores = ClipStore(arguments.clips), ClipStore(arguments.clips, "validation")
        train_videos, held_out = (CaptionedVideos.load(store, t2i.unet.config.sample_size) for store in stores)
        null_text = load_text_encoder(t2i.text_encoder, t2i.max_text_tokens).encode([""])
        task = SpaceTimeTask("train_base", unet, t2i.scheduler, train_videos, held_out, null_text, config.optim)

        inputs = [arguments.clips, arguments.t2i, *([Path(config.init_from)] if config.init_from else [])]
        training = StagedTraining(arguments.scratch, to_dict(config), inputs)
        result = training.train(task, config.optim, run.log_metrics, arguments.out)
        unet.save_pretrained(arguments.out)
        save_companions(arguments.out, t2i.scheduler, t2i.text_encoder, t2i.max_text_tokens)
        run.log_metrics({"temporal_parameters": sum(p.numel() for p in unet.temporal_parameters())})
        run.log_artifact(arguments.out / "train_base.png")
        training.finish()
    loss = f"held-out loss {result.validation[-1][1]:.4f} after " if result.validation else ""
    print(f"{loss}{result.steps} steps; {arguments.out}")


def parse_arguments() -> argparse.Namespace:
    """Paths as dvc.yaml gives them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--clips", type=Path, required=True, help="the decoded clips")
    parser.add_argument("--t2i", type=Path, required=True, help="the text-to-image model")
    parser.add_argument("--out", type=Path, required=True, help="folder for the Space-Time U-Net")
    parser.add_argument("--scratch", type=Path, default=Path(".lumiere/scratch/train_base"), help="training state")
    return parser.parse_args()


if __name__ == "__main__":
    stages.run(main)

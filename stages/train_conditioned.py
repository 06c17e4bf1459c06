"""Stage `train_conditioned`: fine-tuning on <J, C, M>, so that one network does every mode (paper, section 4)."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import stages
from lumiere import tracking
from lumiere.config import ConfigError, load_params, to_dict
from lumiere.data.clips import ClipStore
from lumiere.models import SpaceTimeUNet
from lumiere.models.text_to_image import load_scheduler, save_companions
from lumiere.text import load_text_encoder
from lumiere.training.run import StagedTraining
from lumiere.training.video import CaptionedVideos, SpaceTimeTask
from lumiere.training.warm_start import warm_start


def main() -> None:
    """Parse, grow the input, train, write."""
    arguments = parse_arguments()
    config = load_params(arguments.params).train_conditioned
    with tracking.stage_run("train_conditioned", to_dict(config)) as run:
        torch.manual_seed(config.optim.seed)
        base = SpaceTimeUNet.from_pretrained(arguments.base, torch_dtype=torch.float32)
        unet = base.with_conditioning(base.in_channels + 1)
        if config.init_from:
            try:
                warm_start(unet, config.init_from, input_only=True)
            except ValueError as error:
                raise ConfigError(f"{arguments.params}: train_conditioned.init_from: {error}") from None
        stores = ClipStore(arguments.clips), ClipStore(arguments.clips, "validation")
        train_videos, held_out = (CaptionedVideos.load(store, unet.unet.config.sample_size) for store in stores)
        encoder = load_text_encoder(stores[0].text_encoder, stores[0].max_text_tokens)
        scheduler = load_scheduler(arguments.base / "scheduler")
        task = SpaceTimeTask(
            "train_conditioned",
            unet,
            scheduler,
            train_videos,
            held_out,
            encoder.encode([""]),
            config.optim,
            config.mask_weights,
        )

        inputs = [arguments.clips, arguments.base, *([Path(config.init_from)] if config.init_from else [])]
        training = StagedTraining(arguments.scratch, to_dict(config), inputs)
        result = training.train(task, config.optim, run.log_metrics, arguments.out)
        unet.save_pretrained(arguments.out)
        save_companions(arguments.out, scheduler, encoder.name, encoder.max_tokens)
        run.log_artifact(arguments.out / "train_conditioned.png")
        training.finish()
    loss = f"held-out loss {result.validation[-1][1]:.4f} after " if result.validation else ""
    print(f"{loss}{result.steps} steps; {arguments.out}")


def parse_arguments() -> argparse.Namespace:
    """Paths as dvc.yaml gives them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--clips", type=Path, required=True, help="the decoded clips")
    parser.add_argument("--base", type=Path, required=True, help="the base Space-Time U-Net")
    parser.add_argument("--out", type=Path, required=True, help="folder for the conditioned Space-Time U-Net")
    parser.add_argument(
        "--scratch", type=Path, default=Path(".lumiere/scratch/train_conditioned"), help="training state"
    )
    return parser.parse_args()


if __name__ == "__main__":
    stages.run(main)

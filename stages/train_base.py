"""Stage `train_base`: the temporal layers of the base Space-Time U-Net."""

from __future__ import annotations

import torch

import stages
from lumiere.config import load_params
from lumiere.data.frame_sizes import shorter_side
from lumiere.models import SpaceTimeUNet
from lumiere.models.text_to_image import TextToImage, save_companions
from lumiere.training.examples import open_clips
from lumiere.training.space_time_task import SpaceTimeTask
from stages.training import training_stage


def main() -> None:
    """Parse, inflate, train, write."""
    arguments = stages.parse_arguments(
        __doc__,
        clips="the decoded clips",
        t2i="the text-to-image model",
        out="folder for the Space-Time U-Net",
        scratch="training state",
    )
    params = load_params(arguments.params)
    config = params.train_base
    inputs = [__file__, arguments.clips, arguments.t2i, config.init_from]
    with training_stage("train_base", arguments, params, inputs) as stage:
        with stages.reading(arguments.t2i):
            t2i = TextToImage.load(arguments.t2i)
        torch.manual_seed(config.optim.seed)
        unet = SpaceTimeUNet.from_unet2d(t2i.unet, resampling_init=config.resampling_init)
        if config.init_from:
            with stages.blaming(arguments.params, "train_base.init_from"):
                unet.load_temporal(config.init_from, part="motion")
        with stages.reading(arguments.clips):
            size = shorter_side(t2i.size)
            train_clips, held_out = open_clips(arguments.clips, size, params.runtime.cache_mb)
        task = SpaceTimeTask(
            "train_base",
            unet,
            t2i.scheduler,
            train_clips,
            held_out,
            config.optim,
            t2i.vae,
            image_share=config.image_share,
            noise_correlation=config.noise_correlation,
        )
        stage.train(task, train_clips.store.fps)
        if stage.is_main:
            unet.save_pretrained(arguments.out)
            save_companions(
                arguments.out, t2i.scheduler, t2i.text_encoder, t2i.max_text_tokens, t2i.vae
            )
            temporal_parameters = sum(p.numel() for p in unet.temporal_parameters())
            stage.run.log_metrics({"temporal_parameters": temporal_parameters})


if __name__ == "__main__":
    stages.run(main)

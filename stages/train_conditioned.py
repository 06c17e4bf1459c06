"""Stage `train_conditioned`: fine-tuning on <J, C, M>, for every mode (paper, section 4)."""

from __future__ import annotations

import torch

import stages
from lumiere.config import load_params
from lumiere.data.frame_sizes import shorter_side
from lumiere.models import SpaceTimeUNet
from lumiere.models.autoencoder import load_vae
from lumiere.models.text_to_image import image_size, load_scheduler, save_companions
from lumiere.training.conditioned_task import ConditionedTask
from lumiere.training.examples import open_clips
from stages.training import training_stage


def main() -> None:
    """Parse, grow the input, train, write."""
    arguments = stages.parse_arguments(
        __doc__,
        clips="the decoded clips",
        base="the base Space-Time U-Net",
        out="folder for the conditioned Space-Time U-Net",
        scratch="training state",
    )
    params = load_params(arguments.params)
    config = params.train_conditioned
    inputs = [__file__, arguments.clips, arguments.base, config.init_from]
    with training_stage("train_conditioned", arguments, params, inputs) as stage:
        torch.manual_seed(config.optim.seed)
        with stages.reading(arguments.base):
            base = SpaceTimeUNet.from_pretrained(arguments.base, torch_dtype=torch.float32)
            scheduler = load_scheduler(arguments.base / "scheduler")
            vae = load_vae(arguments.base / "vae")
        unet = base.with_conditioning(base.in_channels + 1)
        if config.init_from:
            with stages.blaming(arguments.params, "train_conditioned.init_from"):
                unet.load_temporal(config.init_from, part="conditioning")
        with stages.reading(arguments.clips):
            size = shorter_side(image_size(unet.unet, vae))
            train_clips, held_out = open_clips(arguments.clips, size, params.runtime.cache_mb)
        task = ConditionedTask(
            "train_conditioned",
            unet,
            scheduler,
            train_clips,
            held_out,
            config.optim,
            vae,
            image_share=config.image_share,
            noise_correlation=config.noise_correlation,
            mask_weights=config.mask_weights,
        )
        store = train_clips.store
        stage.train(task, store.fps)
        if stage.is_main:
            unet.save_pretrained(arguments.out)
            save_companions(
                arguments.out, scheduler, store.text_encoder, store.max_text_tokens, vae
            )


if __name__ == "__main__":
    stages.run(main)

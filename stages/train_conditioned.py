"""Stage `train_conditioned`: fine-tuning on <J, C, M>, so that one network does every mode (paper, section 4)."""

from __future__ import annotations

from functools import partial

import torch

import stages
from lumiere import tracking
from lumiere.config import load_params, to_dict
from lumiere.models import SpaceTimeUNet
from lumiere.models.autoencoder import load_vae, vae_factor
from lumiere.models.text_to_image import load_scheduler, save_companions
from lumiere.training.examples import open_clips
from lumiere.training.parallel import is_main_process
from lumiere.training.preview import SamplePreview
from lumiere.training.staged_training import StagedTraining
from lumiere.training.video_task import SpaceTimeTask


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
    stages.spread(params)
    config = params.train_conditioned
    with tracking.stage_run("train_conditioned", to_dict(config)) as run:
        torch.manual_seed(config.optim.seed)
        with stages.reading(arguments.base):
            base = SpaceTimeUNet.from_pretrained(arguments.base, torch_dtype=torch.float32)
            scheduler, vae = (
                load_scheduler(arguments.base / "scheduler"),
                load_vae(arguments.base / "vae"),
            )
        unet = base.with_conditioning(base.in_channels + 1)
        if config.init_from:
            with stages.blaming(arguments.params, "train_conditioned.init_from"):
                unet.load_temporal(config.init_from, part="conditioning")
        with stages.reading(arguments.clips):
            size = unet.unet.config.sample_size * vae_factor(vae)
            train_clips, held_out = open_clips(arguments.clips, size, params.runtime.cache_mb)
        store = train_clips.store
        task = SpaceTimeTask(
            "train_conditioned", unet, scheduler, train_clips, held_out, config.optim, config.mask_weights,
            config.image_share, vae,
        )  # fmt: skip

        inputs = [__file__, arguments.clips, arguments.base, config.init_from]
        training = StagedTraining(arguments.scratch, params, config, inputs)
        preview = SamplePreview(
            task, scheduler, params.runtime, training.folder / "samples",
            partial(run.log_artifact, folder="samples"), store.fps,
        )  # fmt: skip
        result = training.train(task, config.optim, run.log_metrics, arguments.out, preview)
        if not is_main_process():
            return
        unet.save_pretrained(arguments.out)
        save_companions(arguments.out, scheduler, store.text_encoder, store.max_text_tokens, vae)
        run.log_artifact(arguments.out / "train_conditioned.png")
        training.finish()
    print(f"{result.summary()}; {arguments.out}")


if __name__ == "__main__":
    stages.run(main)

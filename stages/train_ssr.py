"""Stage `train_ssr`: super-resolution, an image network inflated and trained on short windows."""

from __future__ import annotations

from pathlib import Path

import torch

import stages
from lumiere.config import TrainSSRConfig, load_params
from lumiere.data.frame_sizes import plain
from lumiere.diffusion.objective import make_scheduler
from lumiere.errors import ParamsError
from lumiere.models import SpaceTimeUNet
from lumiere.models.ssr_requirements import check_super_resolution
from lumiere.models.text_to_image import load_image_network
from lumiere.models.unet_builders import build_ssr_unet
from lumiere.training.examples import StoredClips, open_clips
from lumiere.training.preview import SuperResolutionPreview
from lumiere.training.ssr_task import SuperResolutionTask
from stages.training import TrainingStage, training_stage


def named_inputs(config: TrainSSRConfig, params_file: Path) -> list[Path]:
    """Return the files and folders that the params name.

    Raises:
        ParamsError: if one of them does not exist. The last one is read only after the image
            network is trained, so this check comes first.
    """
    image_key = "image_init_from" if config.image_init_from else "unet_config"
    keys = (image_key if config.image_model == "train" else "image_model", "init_from")
    names = {key: getattr(config, key) for key in keys if getattr(config, key)}
    for key, name in names.items():
        if not Path(name).exists():
            raise ParamsError(f"{params_file}: train_ssr.{key}: {name}: no such file or folder")
    return [Path(name) for name in names.values()]


def train_image_network(
    stage: TrainingStage,
    config: TrainSSRConfig,
    params_file: Path,
    train_clips: StoredClips,
    held_out: StoredClips,
) -> SuperResolutionTask:
    """Train an image network on frames, from scratch or from weights that the params name; the
    returned task contains it.
    """
    if config.image_init_from:
        with stages.blaming(params_file, "train_ssr.image_init_from"):
            unet, scheduler = load_image_network(config.image_init_from)
            check_super_resolution(unet, config.image_init_from)
    else:
        size = plain(train_clips.sizes[0])
        with stages.blaming(params_file, "train_ssr.unet_config"):
            unet = build_ssr_unet(
                size, config.block_out_channels, config.layers_per_block, config.unet_config
            )
        scheduler = make_scheduler()
    task = SuperResolutionTask(
        "ssr_image", unet, scheduler, train_clips, held_out, config.image_optim,
        ssr=config, window_size=1,
    )  # fmt: skip
    stage.train(task, preview=SuperResolutionPreview)
    return task


def main() -> None:
    """Parse, load or train the image network, inflate, train, write."""
    arguments = stages.parse_arguments(
        __doc__,
        clips="the decoded clips",
        out="folder for the super-resolution network",
        scratch="training state",
    )
    params = load_params(arguments.params)
    config = params.train_ssr
    inputs = [__file__, arguments.clips, *named_inputs(config, arguments.params)]
    with training_stage("train_ssr", arguments, params, inputs) as stage:
        with stages.reading(arguments.clips):
            clips = open_clips(arguments.clips, config.size, params.runtime.cache_mb)
        torch.manual_seed(config.image_optim.seed)
        if config.image_model == "train":
            image_task = train_image_network(stage, config, arguments.params, *clips)
            image_unet, scheduler = image_task.network, image_task.scheduler
        else:
            with stages.blaming(arguments.params, "train_ssr.image_model"):
                image_unet, scheduler = load_image_network(config.image_model)
                check_super_resolution(image_unet, config.image_model)

        # Super-resolution enlarges to this size, which an existing network may not have.
        image_unet.register_to_config(sample_size=plain(clips[0].sizes[0]))

        torch.manual_seed(config.optim.seed)
        # Time is not resampled here, because a window is short already, and detail belongs to its
        # own frame.
        unet = SpaceTimeUNet.from_unet2d(image_unet, temporal_resampling=False)
        if config.init_from:
            with stages.blaming(arguments.params, "train_ssr.init_from"):
                unet.load_temporal(config.init_from)
        task = SuperResolutionTask(
            "train_ssr",
            unet,
            scheduler,
            *clips,
            config.optim,
            ssr=config,
            window_size=config.window_size,
            noise_correlation=config.noise_correlation,
        )
        stage.train(task, clips[0].store.fps, SuperResolutionPreview)
        if stage.is_main:
            unet.save_pretrained(arguments.out)
            scheduler.save_pretrained(arguments.out / "scheduler")


if __name__ == "__main__":
    stages.run(main)

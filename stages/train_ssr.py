"""Stage `train_ssr`: spatial super-resolution, an image network inflated and trained on windows of frames."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

import stages
from lumiere import tracking
from lumiere.config import load_params, to_dict
from lumiere.diffusion.objective import make_scheduler
from lumiere.errors import ParamsError
from lumiere.models import SpaceTimeUNet
from lumiere.models.ssr_requirements import check_super_resolution
from lumiere.models.text_to_image import load_image_network
from lumiere.models.unet_builders import build_ssr_unet
from lumiere.training.examples import open_clips
from lumiere.training.parallel import is_main_process
from lumiere.training.preview import SuperResolutionPreview
from lumiere.training.ssr_task import SuperResolutionTask
from lumiere.training.staged_training import StagedTraining


def main() -> None:
    """Parse, train the image network where none is given, inflate, train, write."""
    arguments = stages.parse_arguments(
        __doc__,
        clips="the decoded clips",
        out="folder for the super-resolution network",
        scratch="training state",
    )
    params = load_params(arguments.params)
    stages.spread(params)
    config = params.train_ssr
    with stages.reading(arguments.clips):
        train_clips, held_out = open_clips(arguments.clips, config.size, params.runtime.cache_mb)
    unet_config = config.unet_config if config.image_model == "train" else ""
    if unet_config and not Path(unet_config).is_file():
        raise ParamsError(f"{arguments.params}: train_ssr.unet_config: {unet_config}: no such file")
    given = {"image_model": config.image_model, "init_from": config.init_from}
    folders = {key: Path(name) for key, name in given.items() if name and name != "train"}
    for key, folder in folders.items():
        if not folder.is_dir():
            raise ParamsError(f"{arguments.params}: train_ssr.{key}: {folder}: no such folder")
    training = StagedTraining(
        arguments.scratch,
        params,
        config,
        [__file__, arguments.clips, unet_config, *folders.values()],
    )
    with tracking.stage_run("train_ssr", to_dict(config)) as run:
        samples, show = training.folder / "samples", partial(run.log_artifact, folder="samples")
        torch.manual_seed(config.image_optim.seed)
        if config.image_model == "train":
            with stages.blaming(arguments.params, "train_ssr.unet_config"):
                image_unet = build_ssr_unet(
                    config.size,
                    config.block_out_channels,
                    config.layers_per_block,
                    config.unet_config,
                )
            scheduler = make_scheduler()
            image_task = SuperResolutionTask(
                "ssr_image",
                image_unet,
                scheduler,
                train_clips,
                held_out,
                1,
                config,
                config.image_optim,
            )
            preview = SuperResolutionPreview(image_task, scheduler, params.runtime, samples, show)
            training.train(image_task, config.image_optim, run.log_metrics, arguments.out, preview)
        else:
            with stages.blaming(arguments.params, "train_ssr.image_model"):
                image_unet, scheduler = load_image_network(config.image_model)
                check_super_resolution(image_unet, config.image_model)

        torch.manual_seed(config.optim.seed)
        # Time is not resampled here: a window is short already, and detail belongs to its own frame.
        unet = SpaceTimeUNet.from_unet2d(image_unet, temporal_resampling=False)
        if config.init_from:
            with stages.blaming(arguments.params, "train_ssr.init_from"):
                unet.load_temporal(config.init_from)
        task = SuperResolutionTask(
            "train_ssr",
            unet,
            scheduler,
            train_clips,
            held_out,
            config.window_size,
            config,
            config.optim,
        )
        preview = SuperResolutionPreview(
            task, scheduler, params.runtime, samples, show, train_clips.store.fps
        )
        result = training.train(task, config.optim, run.log_metrics, arguments.out, preview)
        if not is_main_process():
            return
        unet.save_pretrained(arguments.out)
        scheduler.save_pretrained(arguments.out / "scheduler")
        run.log_artifact(arguments.out / "train_ssr.png")
        training.finish()
    print(f"{result.summary()}; {arguments.out}")


if __name__ == "__main__":
    stages.run(main)

"""Stage `prepare_t2i`: the frozen text-to-image model: shipped, from a folder or hub, or trained on the clips."""

from __future__ import annotations

import argparse
from functools import partial

import torch

import stages
from lumiere import tracking
from lumiere.config import Params, load_params, to_dict
from lumiere.data.clips import ClipStore
from lumiere.diffusion.objective import make_scheduler
from lumiere.errors import ParamsError
from lumiere.models.text_to_image import TextToImage, load_text_to_image
from lumiere.models.unet_builders import build_text_to_image_unet
from lumiere.training.examples import open_clips
from lumiere.training.image_task import TextToImageTask
from lumiere.training.parallel import is_main_process
from lumiere.training.preview import SamplePreview
from lumiere.training.staged_training import StagedTraining


def train_from_scratch(
    params: Params, arguments: argparse.Namespace, run: tracking.Run
) -> tuple[TextToImage, StagedTraining]:
    """A small pixel-space T2I, trained on the frames of the training clips."""
    config = params.prepare_t2i
    with stages.reading(arguments.clips):
        train_clips, held_out = open_clips(arguments.clips, config.size, params.runtime.cache_mb)
    store = train_clips.store
    torch.manual_seed(config.optim.seed)
    with stages.blaming(arguments.params, "prepare_t2i.unet_config"):
        unet = build_text_to_image_unet(
            config.size,
            config.block_out_channels,
            config.layers_per_block,
            store.embed_dim,
            config.unet_config,
        )
    scheduler = make_scheduler()
    task = TextToImageTask("t2i", unet, scheduler, train_clips, held_out, config.optim)
    training = StagedTraining(
        arguments.scratch, params, config, [__file__, arguments.clips, config.unet_config]
    )
    preview = SamplePreview(
        task,
        scheduler,
        params.runtime,
        training.folder / "samples",
        partial(run.log_artifact, folder="samples"),
    )
    training.train(task, config.optim, run.log_metrics, arguments.out, preview)
    return TextToImage(unet, scheduler, store.text_encoder, store.max_text_tokens), training


def main() -> None:
    """Parse, fetch or train, write."""
    arguments = stages.parse_arguments(
        __doc__,
        clips="the decoded clips",
        out="folder for the model",
        scratch="training state",
    )
    params = load_params(arguments.params)
    config = params.prepare_t2i
    if config.source == "train":
        stages.spread(params)
    with tracking.stage_run("prepare_t2i", to_dict(config)) as run:
        training = None
        if config.source == "train":
            t2i, training = train_from_scratch(params, arguments, run)
        else:
            with stages.blaming(arguments.params, "prepare_t2i.source"):
                t2i = load_text_to_image(config.source)
            with stages.reading(arguments.clips):
                clips = ClipStore(arguments.clips)
            with stages.blaming(arguments.params, "prepare_t2i.size"):
                t2i.use_at(config.size)
            for key in ("text_encoder", "max_text_tokens"):
                if getattr(clips, key) != getattr(t2i, key):
                    raise ParamsError(
                        f"{arguments.params}: decode.{key}: {getattr(clips, key)!r}; allowed: {getattr(t2i, key)!r}, "
                        f"which {config.source} was trained with"
                    )
        if not is_main_process():
            return
        t2i.save(arguments.out)
        parameters = sum(p.numel() for p in t2i.unet.parameters())
        run.log_metrics({"parameters": parameters})
        run.log_artifact(arguments.out / "unet" / "config.json")
        if training:
            training.finish()
    print(f"{parameters / 1e6:.1f}M parameters from {config.source} in {arguments.out}")


if __name__ == "__main__":
    stages.run(main)

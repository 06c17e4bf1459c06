"""Stage `prepare_t2i`: the frozen text-to-image model, loaded or trained on the clips."""

from __future__ import annotations

import argparse

import torch

import stages
from lumiere import tracking
from lumiere.config import Params, PrepareT2IConfig, load_params, to_dict
from lumiere.data.clips import ClipStore
from lumiere.data.frame_sizes import at_side, plain
from lumiere.diffusion.objective import make_scheduler
from lumiere.errors import ParamsError
from lumiere.models.pretrained import load_text_to_image
from lumiere.models.text_to_image import TextToImage
from lumiere.models.unet_builders import build_text_to_image_unet
from lumiere.training.examples import open_clips
from lumiere.training.image_task import TextToImageTask
from lumiere.training.parallel import is_main_process
from stages.training import training_stage


def train_from_scratch(arguments: argparse.Namespace, params: Params) -> None:
    """Train a small pixel-space T2I on the frames of the training clips."""
    config = params.prepare_t2i
    inputs = [__file__, arguments.clips, config.unet_config]
    with training_stage("prepare_t2i", arguments, params, inputs) as stage:
        with stages.reading(arguments.clips):
            clips = open_clips(arguments.clips, config.size, params.runtime.cache_mb)
        store = clips[0].store
        torch.manual_seed(config.optim.seed)
        with stages.blaming(arguments.params, "prepare_t2i.unet_config"):
            unet = build_text_to_image_unet(
                plain(clips[0].sizes[0]),
                config.block_out_channels,
                config.layers_per_block,
                store.embed_dim,
                config.unet_config,
            )
        scheduler = make_scheduler()
        stage.train(TextToImageTask("t2i", unet, scheduler, *clips, config.optim))
        if stage.is_main:
            t2i = TextToImage(unet, scheduler, store.text_encoder, store.max_text_tokens)
            write(t2i, config, arguments, stage.run)


def fetch(arguments: argparse.Namespace, config: PrepareT2IConfig) -> TextToImage:
    """Return the model that the params name, checked against the clips' text.

    Raises:
        ParamsError: if there is no such model, or it was trained with other text or at another
            size.
    """
    with stages.blaming(arguments.params, "prepare_t2i.source"):
        t2i = load_text_to_image(config.source)
    with stages.reading(arguments.clips):
        clips = ClipStore(arguments.clips)
    with stages.blaming(arguments.params, "prepare_t2i.size"):
        sizes = [plain(size) for size in at_side(clips.sizes, config.size)]
        for size in sizes:
            t2i.check_size(size)
        t2i.use_at(sizes[0])
    for key in ("text_encoder", "max_text_tokens"):
        if getattr(clips, key) != getattr(t2i, key):
            raise ParamsError(
                f"{arguments.params}: decode.{key}: {getattr(clips, key)!r}; allowed: {getattr(t2i, key)!r}, "
                f"which {config.source} was trained with"
            )
    return t2i


def write(
    t2i: TextToImage, config: PrepareT2IConfig, arguments: argparse.Namespace, run: tracking.Run
) -> None:
    """Write the model, and record its size."""
    t2i.save(arguments.out)
    parameters = sum(p.numel() for p in t2i.unet.parameters())
    run.log_metrics({"parameters": parameters})
    run.log_artifact(arguments.out / "unet" / "config.json")
    print(f"{parameters / 1e6:.1f}M parameters from {config.source} in {arguments.out}")


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
        train_from_scratch(arguments, params)
        return
    with tracking.stage_run("prepare_t2i", to_dict(config)) as run:
        t2i = fetch(arguments, config)
        if is_main_process():
            write(t2i, config, arguments, run)


if __name__ == "__main__":
    stages.run(main)

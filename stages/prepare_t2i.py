"""Stage `prepare_t2i`: the frozen text-to-image model: shipped, from a folder or hub, or trained on the clips."""

from __future__ import annotations

from pathlib import Path

import torch

import stages
from lumiere import tracking
from lumiere.config import ConfigError, PrepareT2IConfig, load_params, to_dict
from lumiere.data.clips import ClipStore
from lumiere.diffusion.objective import make_scheduler
from lumiere.models.small import build_text_to_image_unet
from lumiere.models.text_to_image import TextToImage, load_text_to_image
from lumiere.text import load_text_encoder
from lumiere.training.captioned import CaptionedClips
from lumiere.training.run import StagedTraining
from lumiere.training.text_to_image import TextToImageTask


def train_from_scratch(
    config: PrepareT2IConfig, clips: Path, out: Path, scratch: Path, run: tracking.Run
) -> tuple[TextToImage, StagedTraining]:
    """A small pixel-space T2I, trained on the frames of the training clips."""
    with stages.reading(clips):
        stores = ClipStore(clips), ClipStore(clips, "validation")
        encoder = load_text_encoder(stores[0].text_encoder, stores[0].max_text_tokens)
        null_text = encoder.encode([""])
    torch.manual_seed(config.optim.seed)
    unet = build_text_to_image_unet(config.size, config.block_out_channels, config.layers_per_block, encoder.embed_dim)
    scheduler = make_scheduler()
    train_clips, held_out = (CaptionedClips.from_store(store, config.size, null_text) for store in stores)
    task = TextToImageTask("t2i", unet, scheduler, train_clips, held_out, config.optim)
    training = StagedTraining(scratch, to_dict(config), [__file__, clips])
    training.train(task, config.optim, run.log_metrics, out)
    return TextToImage(unet, scheduler, encoder.name, encoder.max_tokens), training


def main() -> None:
    """Parse, fetch or train, write."""
    arguments = stages.parse_arguments(
        __doc__,
        clips="the decoded clips",
        out="folder for the model",
        scratch="training state",
    )
    config = load_params(arguments.params).prepare_t2i
    with tracking.stage_run("prepare_t2i", to_dict(config)) as run:
        training = None
        if config.source == "train":
            t2i, training = train_from_scratch(config, arguments.clips, arguments.out, arguments.scratch, run)
        else:
            with stages.blaming(arguments.params, "prepare_t2i.source"):
                t2i = load_text_to_image(config.source)
            with stages.reading(arguments.clips):
                clips = ClipStore(arguments.clips)
            if t2i.unet.config.sample_size != config.size:
                raise ConfigError(
                    f"{arguments.params}: prepare_t2i.size: {config.size}; allowed: {t2i.unet.config.sample_size}, "
                    f"which {config.source} was trained for"
                )
            for key in ("text_encoder", "max_text_tokens"):
                if getattr(clips, key) != getattr(t2i, key):
                    raise ConfigError(
                        f"{arguments.params}: decode.{key}: {getattr(clips, key)!r}; allowed: {getattr(t2i, key)!r}, "
                        f"which {config.source} was trained with"
                    )
        t2i.save(arguments.out)
        parameters = sum(p.numel() for p in t2i.unet.parameters())
        run.log_metrics({"parameters": parameters})
        run.log_artifact(arguments.out / "unet" / "config.json")
        if training:
            training.finish()
    print(f"{parameters / 1e6:.1f}M parameters from {config.source} in {arguments.out}")


if __name__ == "__main__":
    stages.run(main)

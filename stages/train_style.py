"""Stage `train_style`: the text-to-image model fine-tuned on the pictures of one style, wholly or by adapters."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

import stages
from lumiere import tracking
from lumiere.config import load_params, to_dict
from lumiere.data.captioned_pictures import load_captioned_folder
from lumiere.models.text_to_image import load_text_to_image
from lumiere.text import load_text_encoder
from lumiere.training.examples import Pictures
from lumiere.training.image_task import TextToImageTask
from lumiere.training.lora import add_lora, fuse_lora
from lumiere.training.parallel import is_main_process
from lumiere.training.preview import SamplePreview
from lumiere.training.staged_training import StagedTraining

HELD_OUT = 10  # of so many pictures, the last


def write(weights: dict[str, Tensor], path: Path) -> None:
    """A safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, path)


def main() -> None:
    """Parse, fine-tune, write."""
    arguments = stages.parse_arguments(
        __doc__,
        t2i="the text-to-image model",
        styles="folder with one folder per style",
        out="folder for the style's weights",
        scratch="training state",
    )
    params = load_params(arguments.params)
    stages.spread(params)
    config = params.train_style
    with tracking.stage_run("train_style", to_dict(config)) as run:
        with stages.reading(arguments.t2i):
            t2i = load_text_to_image(arguments.t2i)
            encoder = load_text_encoder(arguments.t2i / "text_encoder")
        with stages.blaming(arguments.params, "train_style.style"):
            pictures, captions = load_captioned_folder(arguments.styles / config.style, t2i.size)
        embeds, mask = encoder.encode([*captions, ""])
        last = np.arange(len(pictures)) % HELD_OUT == HELD_OUT - 1
        images, held_out = (
            Pictures(
                pictures[chosen], (embeds[:-1][chosen], mask[:-1][chosen]), (embeds[-1], mask[-1])
            )
            for chosen in (~last, last)
        )
        torch.manual_seed(config.optim.seed)
        if config.lora_rank:
            add_lora(t2i.unet, config.lora_rank)
        task = TextToImageTask(
            "train_style", t2i.unet, t2i.scheduler, images, held_out, config.optim, t2i.vae
        )
        inputs = [__file__, arguments.t2i, arguments.styles / config.style]
        training = StagedTraining(arguments.scratch, params, config, inputs)
        preview = SamplePreview(
            task, t2i.scheduler, params.runtime, training.folder / "samples",
            partial(run.log_artifact, folder="samples"),
        )  # fmt: skip
        result = training.train(task, config.optim, run.log_metrics, arguments.out, preview)
        if not is_main_process():
            return
        if config.lora_rank:
            write(fuse_lora(t2i.unet), arguments.out / "lora" / f"{config.style}.lora.safetensors")
        write(t2i.unet.state_dict(), arguments.out / f"{config.style}.safetensors")
        run.log_artifact(arguments.out / "train_style.png")
        training.finish()
    print(f"{result.summary()}; {arguments.out}")


if __name__ == "__main__":
    stages.run(main)

"""Writes trained styles as the demo ships them: fp16 LoRAs, samples and loss curves."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file, save_file

from lumiere.data.pixel_values import unit_to_bytes
from lumiere.pipelines import LumierePipeline
from lumiere.pipelines.assemble import image_pipeline
from lumiere.pipelines.pipeline_output import LumierePipelineOutput

# Samples: subjects in the styles' own words, the last three of them not among the pictures of any
# style, and whole prompts without a word of style.
SUBJECTS = (
    "a frog's face", "a fire engine", "a snowman", "a horse", "a strawberry", "a mushroom",
    "a guitar",
)  # fmt: skip
PROMPTS = ("a red car drives", "a penguin waddles", "a smiling face")
ALPHAS = (0.5, 0.8, 1.0)
SEED = 0
ZOOM = 2


def export_styles(trained: Sequence[Path], folder: Path, t2i: Path, styles: Path) -> None:
    """Write `<name>.safetensors` of each style, `samples.png` and `loss.png`.

    Args:
        trained: outputs of the stage `train_style`, in folders with the styles' names.
        folder: where to write.
        t2i: the text-to-image model, for the samples.
        styles: the styles' captioned pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pipe = image_pipeline(t2i)
    names = [path.name for path in trained]
    for path in trained:
        lora = load_file(path / "lora" / f"{path.name}.lora.safetensors")
        half = {name: value.half().contiguous() for name, value in lora.items()}
        save_file(half, folder / f"{path.name}.safetensors")
        pipe.add_style(path.name, folder / f"{path.name}.safetensors")
    phrases = {name: read_phrase(styles / name / "captions.csv") for name in names}
    draw_samples(pipe, phrases, folder / "samples.png")
    draw_losses(trained, folder / "loss.png")


def read_phrase(listing: Path) -> str:
    """Return the words that all captions of a style share, with {} in place of the subject."""
    with open(listing, newline="", encoding="utf-8") as file:
        captions = [row["caption"].split() for row in csv.DictReader(file)]
    first = shared_start(captions)
    last = shared_start([caption[::-1] for caption in captions])[::-1]
    return " ".join([*first, "{}", *last])


def shared_start(captions: Sequence[Sequence[str]]) -> list[str]:
    """Return the words with which all captions begin."""
    shared: list[str] = []
    for words in zip(*captions, strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    return shared


def draw_samples(pipe: LumierePipeline, phrases: dict[str, str], path: Path) -> None:
    """Draw a picture of samples: a row without style, then one for each style and alpha.

    All pictures of a column have the same noise.
    """
    rows = [draw_row(pipe, [*SUBJECTS, *PROMPTS])]
    for name, phrase in phrases.items():
        prompts = [*(phrase.format(subject) for subject in SUBJECTS), *PROMPTS]
        for alpha in ALPHAS:
            rows.append(draw_row(pipe, prompts, style=name, alpha=alpha))
    sheet = np.concatenate(rows).repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    Image.fromarray(sheet).save(path, optimize=True)


def draw_row(pipe: LumierePipeline, prompts: list[str], **style: Any) -> np.ndarray:
    """Sample a picture of each prompt, side by side: uint8 (h, n w, 3)."""
    generators = [torch.Generator().manual_seed(SEED + i) for i in range(len(prompts))]
    made = pipe(
        prompts, num_frames=1, generator=generators, batch_size=None, output_type="pt", **style
    )
    assert isinstance(made, LumierePipelineOutput)
    pictures = unit_to_bytes(made.frames[:, 0].permute(0, 2, 3, 1)).numpy()  # (n, h, w, 3)
    return np.concatenate(list(pictures), axis=1)


def draw_losses(trained: Sequence[Path], path: Path) -> None:
    """Plot the losses of the styles, in training and of the held-out pictures."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, folder in enumerate(trained):
        losses = json.loads((folder / "train_style.json").read_text(encoding="utf-8"))
        curves = {"loss": "-", "validation_loss": "o--"}
        for key, line in curves.items():
            label = f"{folder.name}{', held out' if key == 'validation_loss' else ''}"
            if losses[key]:
                steps, values = zip(*losses[key], strict=True)
                axes.plot(steps, values, line, color=f"C{number}", label=label)
    axes.set(title="styles", xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100, metadata={"Software": None})

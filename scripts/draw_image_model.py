"""Draw the pictures of the card of the demo's text-to-image model.

    PYTHONPATH=. python scripts/draw_image_model.py --t2i pretrained/t2i --to pretrained/t2i
    PYTHONPATH=. python scripts/draw_image_model.py --t2i WORK/export/t2i --losses WORK/loss.csv --to FOLDER
    PYTHONPATH=. python scripts/draw_image_model.py --t2i pretrained/t2i --before EARLIER/t2i --to docs/images

`prompts.png` shows the twenty short prompts of `PROMPTS`, by rows of five. `samples.png` shows
sentences of training videos: in each pair of rows a real picture above what the model draws, first
for subjects drawn at random, then for those that it draws worst. With `--losses`, `loss.png` shows
the losses of `scripts/train_pretrained.py`. With `--before`, only `before_and_after.png` is drawn:
the short prompts by an earlier model, and by this one.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from pretraining_data import read_subjects

from lumiere.data.pixel_values import unit_to_bytes
from lumiere.errors import run_program
from lumiere.evaluation.backbones.efficientnet_lite import EfficientNetLite0Backbone
from lumiere.pipelines import LumierePipeline
from lumiere.pipelines.assemble import image_pipeline
from lumiere.pipelines.pipeline_output import LumierePipelineOutput

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = (
    "a red fox runs", "a dog", "a cat walks", "a rocket takes off", "a smiling face",
    "a red car drives", "a fish swims", "a bird flies", "a tree", "a star",
    "a horse", "a heart", "an airplane", "a frog", "a snowman",
    "a cup of coffee", "a house", "a flower", "a bear", "the sun",
)  # fmt: skip
SUBJECTS, RANDOM_SHOWN, WORST_SHOWN = 60, 10, 10
GAP, ZOOM = 2, 3


def draw(pipe: LumierePipeline, prompts: list[str]) -> np.ndarray:
    """Sample a picture of each prompt, with a seed of its own: uint8 (n, h, w, 3)."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    made = pipe(prompts, num_frames=1, generator=generators, batch_size=16, output_type="pt")
    assert isinstance(made, LumierePipelineOutput)
    return unit_to_bytes(made.frames[:, 0].permute(0, 2, 3, 1)).numpy()


def write_sheet(rows: list[np.ndarray], path: Path) -> None:
    """Write rows of pictures, each uint8 (n, h, w, 3), enlarged without smoothing."""
    padded = [
        np.pad(row, [(0, 0), (0, GAP), (0, GAP), (0, 0)], constant_values=255) for row in rows
    ]
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in padded])
    enlarged = sheet.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    Image.fromarray(enlarged).save(path, optimize=True)


def draw_prompts(pipe: LumierePipeline, path: Path) -> None:
    """Draw the short prompts."""
    pictures = draw(pipe, list(PROMPTS))
    write_sheet([pictures[start : start + 5] for start in range(0, len(pictures), 5)], path)


def draw_before_and_after(before: LumierePipeline, pipe: LumierePipeline, path: Path) -> None:
    """Draw the short prompts by an earlier model, on the left, and by this one, from equal noise and
    with this one's scheduler.
    """
    before.register_modules(scheduler=pipe.scheduler)
    earlier, now = draw(before, list(PROMPTS)), draw(pipe, list(PROMPTS))
    gap = np.full_like(now[:1], 255)
    starts = range(0, len(now), 5)
    rows = [np.concatenate([earlier[i : i + 5], gap, now[i : i + 5]]) for i in starts]
    write_sheet(rows, path)


def draw_samples(pipe: LumierePipeline, path: Path) -> dict[str, float]:
    """Draw some training subjects, at random and the worst of `SUBJECTS`.

    Returns:
        The cosine similarity of ImageNet features between each subject and its own real picture,
        by sentence, the worst first.
    """
    sentences: dict[str, str] = {}
    for folder in ("raw", "pretraining/raw"):
        captions = (ROOT / "data" / folder).parent / "captions.csv"
        with open(captions, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                sentences.setdefault(f"{folder}/{row['video']}", row["caption"])
    subjects = [subject for subject in read_subjects() if subject.video and not subject.held_out]
    chosen = random.Random(0).sample(subjects, SUBJECTS)
    prompts = [sentences[subject.video] for subject in chosen]
    real = np.stack([subject.pictures[0] for subject in chosen])
    drawn = draw(pipe, prompts)
    backbone = EfficientNetLite0Backbone()
    features = [torch.from_numpy(backbone.embed(pictures)) for pictures in (real, drawn)]
    similarity = torch.cosine_similarity(*features)
    worst = similarity.argsort()
    rows = []
    for indices in (np.arange(RANDOM_SHOWN), worst[:WORST_SHOWN].numpy()):
        rows += [real[indices], drawn[indices]]
    write_sheet(rows, path)
    return {prompts[i]: round(float(similarity[i]), 3) for i in worst.tolist()}


def draw_losses(losses: Path, path: Path) -> None:
    """Plot the loss of training, averaged over 500 steps, and that of held-out pictures."""
    with open(losses, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    steps = np.array([int(row["step"]) for row in rows])
    loss = np.array([float(row["loss"]) for row in rows])
    smooth = np.convolve(loss, np.full(10, 0.1), mode="valid")
    held_out = [row for row in rows if row["held_out_loss"]]
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(steps[len(steps) - len(smooth) :], smooth, label="training")
    axes.plot(
        [int(row["step"]) for row in held_out],
        [float(row["held_out_loss"]) for row in held_out],
        label="held out, averaged weights",
    )
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100, metadata={"Software": None})


def main() -> None:
    """Draw the pictures and print the similarities."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--t2i", type=Path, required=True, help="the text-to-image model")
    parser.add_argument("--losses", type=Path, help="loss.csv of the training, to plot it")
    parser.add_argument("--before", type=Path, help="an earlier model, to draw both side by side")
    parser.add_argument("--to", type=Path, required=True, help="folder for the pictures")
    arguments = parser.parse_args()
    pipe = image_pipeline(arguments.t2i)
    arguments.to.mkdir(parents=True, exist_ok=True)
    if arguments.losses:
        draw_losses(arguments.losses, arguments.to / "loss.png")
    if arguments.before:
        sheet = arguments.to / "before_and_after.png"
        draw_before_and_after(image_pipeline(arguments.before), pipe, sheet)
        return
    draw_prompts(pipe, arguments.to / "prompts.png")
    print(json.dumps(draw_samples(pipe, arguments.to / "samples.png"), indent=1))


if __name__ == "__main__":
    run_program(main)

"""Train the embedded judge on the sample videos and write its card: `python -m lumiere.evaluation.train_judge`.

A small open_clip ResNet sees single frames, the frozen MiniLM text tower sees their sentences, and
open_clip's ClipLoss pulls the pairs together. Subjects that the split's hash draws for validation
are never seen; with the same seed and fraction, they include all videos that curation holds out.
Frames are degraded on purpose (crops, low resolution, blur, noise, colour), because the judge sees
generated frames, which are soft and noisy in these ways.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from lumiere.curation.split import is_validation
from lumiere.data.pixel_values import to_unit_range
from lumiere.data.tables import read_table
from lumiere.data.video_io import read_video
from lumiere.errors import VideoError, run_program
from lumiere.evaluation.alignment import retrieval
from lumiere.evaluation.judge import Judge, build_model, load_judge, save_judge

# isort: split
import open_clip
from open_clip.model import CustomTextCLIP

FPS = 16
STORED_SIZE = 80  # frames are kept a little larger than the input, so that they can be cropped
INPUT_SIZE = 64
# A low limit keeps similar subjects close. Pushing a cat and a leopard ever further apart would
# hurt unseen subjects.
MAX_LOGIT_SCALE = 20.0
CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    # ModifiedResNet: layers as a tuple. 64 px in, 2x2 positions before the attention pool.
    "vision_cfg": {"image_size": INPUT_SIZE, "layers": [1, 1, 2, 1], "width": 24, "head_width": 64},
    "text_cfg": {
        "hf_model_name": "all-MiniLM-L6-v2",
        "hf_proj_type": "linear",
        "hf_pooler_type": "mean_pooler",
    },
    "context_length": 40,
    "preprocess": {
        "size": INPUT_SIZE,
        "mode": "RGB",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    },
}
CARD = """# The embedded judge

This small image-text model measures how well the videos of this project match their captions, if
you have no CLIP weights. It is **not CLIPSIM**: it knows a few hundred cartoon subjects of the
sample data and nothing else. Its numbers compare runs of this project with each other. Do not
compare them with those of a paper. Distances to real videos use another network, which saw none of
this data (`docs/evaluation.md`).

## Model

The model is open_clip's `CustomTextCLIP`: a `ModifiedResNet` (layers {layers}, width {width},
{size} px) and a frozen all-MiniLM-L6-v2 with a trained linear projection, in {embed_dim} dimensions.
`model.safetensors` holds the weights in fp16 ({megabytes} MB), without the frozen text tower, which
comes from its own package.

## Training

The model saw {frames} frames of {subjects} sample videos (`data/raw`, 16 fps) and their captions
(`captions.txt`). It never saw {held_out} of the subjects, drawn by a hash of their names with seed {split_seed}.
All subjects that `curate` holds out with the same `seed` and `validation_fraction` are among them.
The training took {steps} steps of {batch_size} different subjects with `open_clip.ClipLoss`, AdamW,
learning rate 1e-3 with warm-up and cosine, and seed {seed}. Frames were cropped, tinted, reduced to
32 px or less, blurred and made noisy, because generated frames look like that.
`python -m lumiere.evaluation.train_judge` repeats the training.

The smoothed loss (chance is {chance}), by step: {curve}.

## Quality

The table shows how well sentences find their videos. A video is the mean embedding of 8 frames,
resized to the size in the first column.

| frames | subjects | sentences | videos | R@1 | R@5 | median rank |
|---|---|---:|---:|---:|---:|---:|
{table}

## Limits

- The judge recognises what it has seen. For other subjects it recognises colour, shape and kind,
  but seldom the species.
- It was trained on the same real clips as the generator. Its scores for training clips are a
  ceiling and not a second opinion: in the demo, generated clips come close to the scores of real
  ones although they look worse.
- Its frozen text tower is also the default text encoder of the generator.
- It sees single frames, and a video is the mean of its frames. It does not see motion.
"""


def read_captions(path: str | Path) -> dict[str, list[str]]:
    """Read the sentences of each video, by its name, without the videos that exist to test
    curation.

    Raises:
        DataError: if the file is missing, or is not a table with the columns video and caption.
    """
    captions = defaultdict(list)
    for _, row in read_table(Path(path), ("video", "caption"), ("start", "end")):
        if not row["video"].startswith("difficult-"):
            captions[row["video"]].append(row["caption"])
    return dict(captions)


def read_frames(path: Path, size: int) -> np.ndarray:
    """Read a video at FPS and resize it with antialiasing: uint8 (t, size, size, 3).

    Raises:
        VideoError: if the video cannot be read.
    """
    try:
        frames = read_video(path, fps=FPS)
    except VideoError as error:
        raise VideoError(f"{path}: {error}") from None
    resized = [Image.fromarray(f).resize((size, size), Image.Resampling.BICUBIC) for f in frames]
    return np.stack([np.asarray(image) for image in resized])


def degrade(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Change crop, colour, resolution, blur and noise at random: (b, 3, h, w) → (b, 3, INPUT_SIZE, INPUT_SIZE)."""
    b = len(images)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        share = torch.rand((b, *shape), generator=generator, dtype=torch.float32)
        return share * (high - low) + low

    # Small changes of scale, place and angle. There are no mirror images, because captions say left
    # and right.
    scale, angle, shift = uniform(0.8, 1.1), uniform(-0.15, 0.15), uniform(-0.1, 0.1, 2)
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    theta = torch.stack(
        [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1
    )
    grid = F.affine_grid(theta, [b, 3, INPUT_SIZE, INPUT_SIZE], align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    # Contrast, brightness, tint.
    images = images * uniform(0.85, 1.15, 1, 1, 1) + uniform(-0.08, 0.08, 3, 1, 1)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * uniform(0.6, 1.3, 1, 1, 1)  # saturation

    # A third of the frames each: sharp, at the base model's 32 px, and blurrier than that.
    kind = torch.randint(0, 3, (b, 1, 1, 1), generator=generator)
    half = F.interpolate(
        F.interpolate(images, scale_factor=0.5, mode="area"), size=INPUT_SIZE, mode="bicubic"
    )
    soft = F.interpolate(
        F.interpolate(images, size=22, mode="area"), size=INPUT_SIZE, mode="bicubic"
    )
    images = torch.where(kind == 0, images, torch.where(kind == 1, half, soft))

    normal = partial(torch.randn, generator=generator, dtype=torch.float32)
    noise, coarse = normal(images.shape), normal((b, 3, INPUT_SIZE // 4, INPUT_SIZE // 4))
    images = images + noise * uniform(0, 0.06, 1, 1, 1)
    images = images + F.interpolate(coarse, size=INPUT_SIZE, mode="bilinear") * uniform(
        0, 0.06, 1, 1, 1
    )
    return images.clamp(0, 1)


def train(
    videos: list[np.ndarray], texts: list[np.ndarray], steps: int, batch_size: int, seed: int
) -> tuple[CustomTextCLIP, list[tuple[int, float]]]:
    """Fit the vision tower and the text projection.

    Args:
        videos: one uint8 (t, h, w, 3) per subject.
        texts: one float32 (k, 384) per subject: the frozen text tower's pooled states.

    Returns:
        The model and its (step, loss) curve.
    """
    torch.manual_seed(seed)
    model, _ = build_model(CONFIG)
    loss_function = open_clip.ClipLoss()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.1},
         {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0}],
        lr=1e-3, betas=(0.9, 0.98),
    )  # fmt: skip
    model.train()
    model.text.transformer.eval()
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    started, curve, smoothed = time.monotonic(), [], math.nan
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = (
                1e-3 * min(1.0, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            )
        # A subject comes at most once in a batch: two frames of it would be each other's negatives.
        subjects = rng.permutation(len(videos))[:batch_size]
        images = np.stack([videos[i][rng.integers(len(videos[i]))] for i in subjects])
        pooled = np.stack([texts[i][rng.integers(len(texts[i]))] for i in subjects])
        x = degrade(to_unit_range(images), generator)
        text = torch.from_numpy(pooled)
        noise = torch.randn(text.shape, generator=generator, dtype=torch.float32)
        text = F.dropout(text + 0.02 * noise, 0.2)

        image_features = model.encode_image((x - 0.5) / 0.5, normalize=True)
        text_features = F.normalize(model.text.proj(text), dim=-1)
        loss = loss_function(image_features, text_features, model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))
        smoothed = loss.item() if math.isnan(smoothed) else 0.95 * smoothed + 0.05 * loss.item()
        if step % 50 == 0:
            curve.append((step, round(smoothed, 4)))
            print(
                f"step {step}  loss {smoothed:.3f}  {time.monotonic() - started:.0f} s", flush=True
            )
    curve.append((steps - 1, round(smoothed, 4)))
    return model.eval(), curve


def pooled_states(model: CustomTextCLIP, tokens: torch.Tensor) -> np.ndarray:
    """Compute the states of the frozen text tower before its projection, (k, 384), which never
    change.
    """
    with torch.no_grad():
        mask = (tokens != model.text.config.pad_token_id).long()
        return model.text.pooler(
            model.text.transformer(input_ids=tokens, attention_mask=mask), mask
        ).numpy()


def held_out_names(names: Iterable[str], split: dict[str, Any]) -> set[str]:
    """Return the videos that the split holds out; the judge is not trained on them."""
    return {
        name for name in names if is_validation(Path(name).stem, split["seed"], split["fraction"])
    }


def measure(
    judge: Judge,
    raw: Path,
    captions: dict[str, list[str]],
    unseen: set[str],
    size: int,
    num_frames: int = 8,
) -> dict[str, Any]:
    """Measure retrieval of videos by text, with the shipped preprocessing.

    It measures train subjects, held-out (unseen) subjects, and held-out sentences among all videos.

    Args:
        judge: the model.
        raw: the folder of raw videos.
        captions: the sentences of each video.
        unseen: the videos that the judge was not trained on.
        size: the resolution in pixels to which frames are resized first.
        num_frames: frames per video, evenly spaced.
    """
    names = sorted(captions)
    held_out = np.array([name in unseen for name in names])
    clips = []
    for name in names:
        frames = read_frames(raw / name, size)
        picks = np.linspace(0, len(frames) - 1, num_frames).round().astype(int)
        clips.append(judge.encode_frames(frames[picks]).mean(0))
    videos = np.stack(clips)
    sentences = [text for name in names for text in captions[name]]
    owner = np.array([i for i, name in enumerate(names) for _ in captions[name]])
    text = judge.encode_text(sentences)
    everything = np.ones_like(held_out)
    pools = {
        "train": (~held_out, ~held_out),
        "held_out": (held_out, held_out),
        "held_out_among_all": (held_out, everything),
    }
    results = {}
    for label, (rows, columns) in pools.items():
        if not rows.any():
            continue
        asked = rows[owner]  # the sentences that are queries
        position = np.cumsum(columns) - 1
        scores = retrieval(text[asked], videos[columns], position[owner[asked]])
        results[label] = {
            "sentences": int(asked.sum()), "videos": int(columns.sum()),
            "r1": round(scores.recall_1, 4), "r5": round(scores.recall_5, 4), "median_rank": scores.median_rank,
        }  # fmt: skip
    return results


def write_card(folder: Path) -> Path:
    """Write CARD.md beside the weights; every number in it comes from config.json."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    training, megabytes = config["training"], (folder / "model.safetensors").stat().st_size / 1e6
    labels = {
        "train": "train subjects, among themselves",
        "held_out": "held-out subjects, among themselves",
        "held_out_among_all": "held-out subjects, among all videos",
    }
    table = [
        f"| {size} | {labels[key]} | {scores['sentences']} | {scores['videos']} | {scores['r1']:.1%} "
        f"| {scores['r5']:.1%} | {scores['median_rank']:g} |"
        for size, results in config["retrieval"].items()
        for key, scores in results.items()
    ]
    vision, size = config["vision_cfg"], config["preprocess"]["size"]
    text = CARD.format(
        layers=vision["layers"],
        width=vision["width"],
        size=size,
        embed_dim=config["embed_dim"],
        megabytes=f"{megabytes:.1f}",
        held_out=f"{training['split']['fraction']:.0%}",
        split_seed=training["split"]["seed"],
        chance=f"{math.log(training['batch_size']):.2f}",
        curve=", ".join(f"{step}: {loss:.2f}" for step, loss in training["loss_curve"]),
        table="\n".join(table),
        **{key: training[key] for key in ("frames", "subjects", "steps", "batch_size", "seed")},
    )
    path = folder / "CARD.md"
    path.write_text(text, encoding="utf-8")
    return path


def main() -> None:
    """Train the judge, measure it, and write its folder with its card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", type=Path, default=Path("data/raw"))
    parser.add_argument("--captions", type=Path, default=Path("data/captions.csv"))
    parser.add_argument("--out", type=Path, default=Path("pretrained/judge"))
    # 300 steps take 2 minutes on one core. 1,400 steps do not find more train subjects, and find
    # fewer held-out ones.
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split-seed", type=int, default=0, help="curate.seed of params.yaml")
    parser.add_argument(
        "--split-fraction",
        type=float,
        default=0.1,
        help="curate.validation_fraction of params.yaml",
    )
    arguments = parser.parse_args()

    captions = read_captions(arguments.captions)
    split = {"seed": arguments.split_seed, "fraction": arguments.split_fraction}
    unseen = held_out_names(captions, split)
    names = sorted(captions.keys() - unseen)
    videos = [read_frames(arguments.raw / name, STORED_SIZE) for name in names]
    model, tokenize = build_model(CONFIG)
    model.eval()
    texts = [pooled_states(model, tokenize(captions[name])) for name in names]
    print(
        f"{len(names)} subjects, {sum(map(len, videos))} frames; {len(unseen)} held out", flush=True
    )
    model, curve = train(videos, texts, arguments.steps, arguments.batch_size, arguments.seed)

    training = {
        "subjects": len(names),
        "frames": sum(map(len, videos)),
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
        "seed": arguments.seed,
        "split": split,
        "loss_curve": curve,
    }
    config = {**CONFIG, "training": training}
    sentences = [caption for name in names for caption in captions[name]]
    save_judge(arguments.out, model, config, sentences)
    judge = load_judge(arguments.out)  # measure the weights as they were written
    config["retrieval"] = {
        f"{size}px": measure(judge, arguments.raw, captions, unseen, size) for size in (128, 32)
    }
    save_judge(arguments.out, model, config, sentences)
    print(write_card(arguments.out).read_text(encoding="utf-8"))


if __name__ == "__main__":
    run_program(main, OSError)

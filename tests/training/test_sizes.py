"""Trainings on clips of several sizes: one size a batch, and the same batches after a resumption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from lumiere.config import LaunchConfig
from lumiere.data.clips import ClipStore
from lumiere.data.shards import Sample, pack_frames, write_index, write_null_text, write_shards
from lumiere.training import diffusion_task
from lumiere.training.loop import train
from tests.training.test_tasks import (
    DIM,
    FRAMES,
    NULL,
    OPTIM,
    SIZE,
    TASKS,
    TOKENS,
    held_out_batch,
    training_batch,
)
from tests.video_factory import numbered

SIZES = ((32, 32), (32, 48), (48, 32))
BUCKETS = {"train": [0, 0, 1, 1, 1, 2, 2], "validation": [0, 1, 1]}


def write_clips(folder: Path) -> tuple[ClipStore, ClipStore]:
    splits = {}
    for split, buckets in BUCKETS.items():
        samples = []
        for i, bucket in enumerate(buckets):
            height, width = SIZES[bucket]
            frames = numbered(FRAMES, subject=i, height=height, width=96)[:, :, :width]
            info = {"clip_id": f"{i}@0", "video": f"{i}.mp4", "start": 0.0, "captions": ["a"]}
            embeds = np.full((1, TOKENS, DIM), i, np.float16)
            mask = np.ones((1, TOKENS), np.uint8)
            samples.append(Sample(pack_frames(frames), embeds, mask, info | {"fps": 16}, bucket))
        splits[split] = write_shards(folder, split, samples, 2)
    write_null_text(folder, NULL[0].half().numpy(), NULL[1].byte().numpy())
    shared = {"fps": 16, "num_frames": FRAMES, "size": SIZES, "text_encoder": "minilm"}
    write_index(folder, splits, **shared, embed_dim=DIM, max_text_tokens=TOKENS)
    return ClipStore(folder), ClipStore(folder, "validation")


@pytest.mark.parametrize("name", TASKS)
def test_every_training_takes_several_sizes(tmp_path: Path, name: str) -> None:
    stores = write_clips(tmp_path)
    task = TASKS[name](stores)
    steps = range(2 * 4)  # of two epochs: 2 + 4 + 2 examples in batches of 2
    batches = [training_batch(task, step) for step in steps]
    resumed = TASKS[name](stores)
    for step in (5, 2):
        again = training_batch(resumed, step)
        assert again.keys() == batches[step].keys()
        assert all(torch.equal(again[key], batches[step][key]) for key in again)
    for batch in batches[:4]:
        assert task.losses(task.network, batch).isfinite().all()
    if "ssr" not in name:  # which trains on square crops
        shapes = {tuple(batch["video"].shape[-2:]) for batch in batches}
        assert shapes == {(SIZE, SIZE), (SIZE, 12), (12, SIZE)}
        assert held_out_batch(task)["video"].shape[-2:] == (SIZE, 12)  # the most frequent
    seen = [task._clip_at(position) for position in range(4 * OPTIM.batch_size)]
    assert set(seen) == set(range(len(BUCKETS["train"])))


@pytest.mark.parametrize("name", ["base", "ssr"])
def test_each_step_is_counted_at_the_size_of_its_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # A real count takes seconds; `test_throughput` compares it with a real step.
    monkeypatch.setattr(diffusion_task, "count_flops", lambda network, *inputs: elements(inputs))
    task = TASKS[name](write_clips(tmp_path))
    task.config = replace(OPTIM, steps=6, log_every=1, validate_every=0, checkpoint_every=0)
    if name == "base":
        task.image_share = 0.3  # some steps train on single frames
    expected = [task.flops(training_batch(task, step)) for step in range(6)]
    assert len(set(expected)) == (3 if name == "base" else 1)
    logged: list[dict[str, float]] = []
    launch = LaunchConfig(gradient_accumulation=2)
    train(task, tmp_path / "scratch", lambda metrics, step: logged.append(metrics), launch)
    counted = [entry["tflops"] * 1e12 / entry["steps_per_second"] for entry in logged]
    assert counted == pytest.approx(expected)
    peaks = {entry["tflops"] / entry["mfu"] for entry in logged}
    assert max(peaks) == pytest.approx(min(peaks))


def elements(inputs: Any) -> int:
    """Count the numbers in the arguments of a network."""
    return sum(leaf.numel() for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor))


def test_the_held_out_clips_are_chosen_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = write_clips(tmp_path)
    task = TASKS["base"](stores)
    choice = Mock(wraps=np.bincount)
    monkeypatch.setattr(diffusion_task.np, "bincount", choice)
    shapes = {tuple(task.validation_example(i)["video"].shape[-2:]) for i in range(4)}
    assert (shapes, choice.call_count) == ({(SIZE, 12)}, 1)
    task.validation_data.buckets = [0, 0, 1]  # of other clips, among which the task chooses anew
    assert task.validation_example(0)["video"].shape[-2:] == (SIZE, SIZE)

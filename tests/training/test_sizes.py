"""Trainings on clips of several sizes: one size a batch, and the same batches after a resumption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lumiere.data.clips import ClipStore
from lumiere.data.shards import Sample, pack_frames, write_index, write_null_text, write_shards
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

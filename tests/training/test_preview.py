"""Samples of a training, as files."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lumiere.config import LaunchConfig, RuntimeConfig
from lumiere.data.clips import ClipStore
from lumiere.data.pixel_values import from_model_range
from lumiere.data.video_io import read_video
from lumiere.training.loop import train
from lumiere.training.parallel import Parallel
from lumiere.training.preview import SamplePreview, SuperResolutionPreview
from tests.training.test_golden import CONFIG
from tests.training.test_tasks import FRAMES, SSR, TASKS

RUNTIME = RuntimeConfig(sample_every=2)


def make_preview(name: str, task: Any, folder: Path, shown: list[Path]) -> SamplePreview:
    kind = SuperResolutionPreview if name.startswith("ssr") else SamplePreview
    return kind(task, RUNTIME, folder, shown.append, 16)


def read(path: Path) -> np.ndarray:
    """Frames (t, h, w, 3)."""
    return read_video(path, 16) if path.suffix == ".mp4" else np.asarray(Image.open(path))[None]


@pytest.mark.parametrize("name", TASKS)
def test_a_preview_shows_the_network_and_leaves_it_alone(
    name: str, stores: tuple[ClipStore, ClipStore], tmp_path: Path
) -> None:
    task, shown = TASKS[name](stores), []
    before = {key: value.clone() for key, value in task.network.state_dict().items()}
    state, batches = torch.get_rng_state(), []
    task.network.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    preview = make_preview(name, task, tmp_path, shown)
    with torch.no_grad():
        for step in (1, 2):
            preview(task.network, Parallel(LaunchConfig()), step)
    suffix = "mp4" if name in ("base", "conditioned", "ssr") else "png"
    assert [path.name for path in shown] == [f"{task.name}-{step:07d}.{suffix}" for step in (1, 2)]
    one, two = (read(path) for path in shown)
    frames = {"base": FRAMES, "conditioned": FRAMES, "ssr": SSR.window_size}.get(name, 1)
    assert one.shape == (frames, 96, 3 * 96, 3) and np.array_equal(one, two)
    assert one.std() > 5  # a picture
    # One example at a time, with and without its sentence.
    assert set(batches) == ({1} if name.startswith("ssr") else {2})
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in task.network.state_dict().items())


@pytest.mark.parametrize("name", TASKS)
def test_previews_change_nothing_of_what_is_learned(
    name: str, stores: tuple[ClipStore, ClipStore], tmp_path: Path
) -> None:
    outcomes, shown = [], []
    for with_preview in (False, True):
        torch.manual_seed(0)
        task = TASKS[name](stores)
        task.validation_clips = 3
        task.config = dataclasses.replace(CONFIG, steps=3)
        preview = make_preview(name, task, tmp_path / "samples", shown) if with_preview else None
        result = train(task, tmp_path / str(with_preview), preview=preview)
        weights = {key: value.clone() for key, value in task.network.state_dict().items()}
        outcomes.append((result.losses, result.validation, weights))
    assert [path.stem for path in shown] == [f"{task.name}-{step:07d}" for step in (2, 3)]
    assert outcomes[0][:2] == outcomes[1][:2]
    assert all(torch.equal(value, outcomes[1][2][key]) for key, value in outcomes[0][2].items())


def test_super_resolution_is_shown_between_what_it_was_given_and_the_original(
    stores: tuple[ClipStore, ClipStore], tmp_path: Path
) -> None:
    task, shown = TASKS["ssr image"](stores), []
    with torch.no_grad():
        make_preview("ssr", task, tmp_path, shown)(task.network, Parallel(LaunchConfig()), 1)
    low, _, high = np.split(read(shown[0])[0, ::6, ::6], 3, axis=1)
    example = task.validation_example(0)
    for picture, name in ((low, "low"), (high, "high")):
        assert np.array_equal(picture, from_model_range(example[name])[0])


@pytest.mark.parametrize("name", ["t2i", "base"])
def test_where_nothing_is_held_out_training_examples_are_shown(
    name: str, stores: tuple[ClipStore, ClipStore], tmp_path: Path
) -> None:
    task, shown = TASKS[name]((stores[0], ClipStore(stores[0].folder, "empty"))), []
    with torch.no_grad():
        make_preview(name, task, tmp_path, shown)(task.network, Parallel(LaunchConfig()), 1)
    assert read(shown[0]).shape[2] == 3 * 96 and task.held_out() == 0


def test_the_examples_are_spread_over_those_held_out(
    stores: tuple[ClipStore, ClipStore], tmp_path: Path
) -> None:
    task, shown, drawn = TASKS["t2i"](stores), [], []
    preview = make_preview("t2i", task, tmp_path, shown)
    plain = copy.copy(preview.task).validation_example
    preview.task.validation_example = lambda i: drawn.append(i) or plain(i)  # type: ignore[method-assign, func-returns-value]
    with torch.no_grad():
        preview(task.network, Parallel(LaunchConfig()), 1)
    assert drawn == [0, 22, 44]

"""Which captions the evaluation's sets are made of, and how their clips are planned."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lumiere.config import GenerateConfig
from lumiere.data.clips import ClipStore
from lumiere.data.shards import Sample, pack_frames, write_index, write_shards
from lumiere.pipelines.evaluation_sets import (
    draw_captions,
    make_clips,
    plan_clips,
    plan_styles,
)
from lumiere.pipelines.styles import StyleBook


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    """Six videos of two clips each; videos 4 and 5 have the same caption."""
    folder = tmp_path_factory.mktemp("clips")
    samples = []
    for video in range(6):
        for window in range(2):
            info = {
                "clip_id": f"v{video}@{window}",
                "video": f"v{video}.mp4",
                "start": 0.0,
                "captions": [f"caption {min(video, 4)}", f"another of {video}"],
                "fps": 8,
            }
            text = np.zeros((2, 4, 8), np.float16), np.ones((2, 4), np.uint8)
            samples.append(Sample(pack_frames(np.zeros((2, 8, 8, 3), np.uint8)), *text, info))
    splits = {
        "train": write_shards(folder, "train", samples, 64),
        "validation": write_shards(folder, "validation", [], 64),
    }
    settings = {"fps": 8, "num_frames": 2, "size": 8, "text_encoder": "minilm"}
    write_index(folder, splits, **settings, embed_dim=8, max_text_tokens=4)
    return ClipStore(folder)


def test_captions_are_each_of_another_video_and_all_different(store: ClipStore) -> None:
    drawn = draw_captions(store, 100, seed=0)
    assert {caption.text for caption in drawn} == {f"caption {i}" for i in range(5)}
    assert len(drawn) == len({caption.subject for caption in drawn}) == 5
    for caption in drawn:
        assert caption.subject == f"{caption.clip_id.split('@')[0]}.mp4"


def test_fewer_captions_are_the_first_of_more(store: ClipStore) -> None:
    assert draw_captions(store, 2, seed=3) == draw_captions(store, 5, seed=3)[:2]
    assert draw_captions(store, 0, seed=3) == []
    draws = {tuple(draw_captions(store, 5, seed=seed)) for seed in range(5)}
    assert len(draws) > 1


def test_each_clip_has_a_seed_of_its_own(store: ClipStore) -> None:
    captions = draw_captions(store, 3, seed=0)
    config = GenerateConfig(seed=7, fps=8)
    planned = plan_clips(captions, "image_to_video", config, held_out=True)
    assert [entry.seed for entry in planned] == [7, 8, 9]
    assert all((entry.fps, entry.held_out, entry.style) == (8, True, "") for entry in planned)


def test_every_style_is_planned_at_alpha_zero_and_at_its_blends(store: ClipStore) -> None:
    styles = StyleBook()
    for name, alpha in (("b", 1.0), ("b", 0.5), ("a", 0.75)):
        styles.add(name, {}, alpha)
    plain = plan_clips(draw_captions(store, 2, seed=0), "text_to_video", GenerateConfig())
    planned = plan_styles(plain, styles)
    assert [(entry.style, entry.alpha) for entry in planned[::2]] == [
        ("a", 0.0), ("a", 0.75), ("b", 0.0), ("b", 0.5), ("b", 1.0),
    ]  # fmt: skip
    for first in (0, 1):
        assert {(entry.prompt, entry.seed) for entry in planned[first::2]} == {
            (plain[first].prompt, plain[first].seed)
        }
    assert plan_styles(plain, StyleBook()) == []


class SeededPixels:
    """In place of a pipeline: one pixel per clip that follows from its seed, style and alpha."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float, int]] = []

    def __call__(
        self,
        prompts: list[str],
        generator: list[torch.Generator],
        style: str = "",
        alpha: float = 0.0,
        **_: Any,
    ) -> SimpleNamespace:
        self.calls.append((style, alpha, len(prompts)))
        shift = (ord(style) + alpha) / 1000 if style else 0.0
        frames = [torch.rand(1, 3, 1, 1, generator=own) / 2 + shift for own in generator]
        return SimpleNamespace(frames=torch.stack(frames))


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_clips_at_alpha_zero_are_made_once_for_all_styles(
    store: ClipStore, batch_size: int
) -> None:
    styles = StyleBook()
    for name, alpha in (("a", 0.5), ("b", 0.5), ("b", 1.0)):
        styles.add(name, {}, alpha)
    plain = plan_clips(draw_captions(store, 3, seed=0), "text_to_video", GenerateConfig())
    planned = plan_styles(plain, styles)
    pipe: Any = SeededPixels()
    made = list(make_clips(pipe, planned, batch_size, "styles"))
    assert [entry for entry, _ in made] == planned
    for entry, frames in made:
        [(_, alone)] = make_clips(SeededPixels(), [entry], 1, "alone")  # type: ignore[arg-type]
        np.testing.assert_array_equal(frames, alone)
    clips_by_kind: dict[tuple[str, float], int] = {}
    for style, alpha, count in pipe.calls:
        clips_by_kind[style, alpha] = clips_by_kind.get((style, alpha), 0) + count
    assert clips_by_kind == {("", 0.0): 3, ("a", 0.5): 3, ("b", 0.5): 3, ("b", 1.0): 3}

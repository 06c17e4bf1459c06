"""Which captions the evaluation's sets are made of, and how their clips are planned."""

from __future__ import annotations

import numpy as np
import pytest

from lumiere.config import GenerateConfig
from lumiere.data.clips import ClipStore
from lumiere.data.shards import Sample, pack_frames, write_index, write_shards
from lumiere.pipelines.evaluation_sets import draw_captions, plan_clips, plan_styles
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

"""What the generate stage writes is what the evaluation reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lumiere import sample_files
from lumiere.errors import DataError
from lumiere.sample_files import Sample


def video(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)


def test_samples(tmp_path: Path) -> None:
    smooth = np.repeat(np.linspace(0, 255, 16 * 16).reshape(1, 16, 16, 1), 3, axis=3)
    frames = np.repeat(smooth, 5, axis=0).astype(np.uint8)
    info = {"name": "a fox, müde", "mode": "text_to_video", "prompt": "müde", "fps": 8}
    known = {
        "generated": video(5, 16, 16, 3),
        "known": video(5, 16, 16, 3, seed=1),
        "known_mask": video(5, 16, 16, seed=2) % 2,
    }
    samples = [Sample(info, frames, known), Sample({**info, "name": "b"}, frames[:2])]
    for sample in samples:
        sample_files.write_sample(tmp_path, sample)
    sample_files.write_index(tmp_path, [sample.info["name"] for sample in samples])
    read = sample_files.read_samples(tmp_path)
    for sample, again in zip(samples, read, strict=True):
        assert again.info == sample.info and again.frames.shape == sample.frames.shape
        assert np.abs(again.frames.astype(int) - sample.frames).mean() < 4  # what H.264 loses
    assert read[0].known is not None and read[0].known.keys() == known.keys()
    for name, array in known.items():
        np.testing.assert_array_equal(read[0].known[name], array)
    assert read[1].known is None
    for suffix in sample_files.SHOWN_SUFFIXES:
        assert (tmp_path / f"b{suffix}").is_file()


def test_the_text_to_video_set(tmp_path: Path) -> None:
    frames, prompts = video(2, 3, 8, 8, 3), ["a fox", "ein müder Fuchs"]
    sample_files.write_text_to_video_set(tmp_path, frames, prompts, fps=8)
    again, sentences = sample_files.read_text_to_video_set(tmp_path)
    np.testing.assert_array_equal(again, frames)
    assert sentences == prompts
    sample_files.write_text_to_video_set(tmp_path, frames, prompts[:1], fps=8)
    with pytest.raises(DataError, match=r"2, 3, 8, 8, 3\) for 1 prompts; expected uint8"):
        sample_files.read_text_to_video_set(tmp_path)


def test_seams(tmp_path: Path) -> None:
    videos = {name: video(1, 4, 8, 8, 3, seed=i) for i, name in enumerate(sample_files.SEAMS)}
    sample_files.write_seams(tmp_path, videos, window_size=3, overlap=1)
    again, settings = sample_files.read_seams(tmp_path)
    assert settings == {"window_size": 3, "overlap": 1} and again.keys() == videos.keys()
    for name, array in videos.items():
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize("name", ["samples", "text_to_video_set", "seams"])
def test_missing_files_are_an_error_with_the_cure(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such file; run the generate stage first"):
        getattr(sample_files, f"read_{name}")(tmp_path)


@pytest.mark.parametrize("name", ["a.mp4", "a.json", "a.known.npz", "t2v_set.npz", "seams.json"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    frames = video(5, 16, 16, 3)
    known = {"generated": frames, "known": frames, "known_mask": frames[..., 0] % 2}
    info = {"name": "a", "mode": "text_to_video", "prompt": "a fox", "fps": 8}
    sample_files.write_sample(tmp_path, Sample(info, frames, known))
    sample_files.write_index(tmp_path, ["a"])
    sample_files.write_text_to_video_set(tmp_path, frames[None], ["a fox"], 8)
    sample_files.write_seams(tmp_path, dict.fromkeys(sample_files.SEAMS, frames[None]), 3, 1)
    (tmp_path / name).write_bytes(b"\xff half of it")
    kind = {"t2v_set.npz": "text_to_video_set", "seams.json": "seams"}.get(name, "samples")
    with pytest.raises(DataError, match=f"{name}: cannot be read .* run the generate stage again"):
        getattr(sample_files, f"read_{kind}")(tmp_path)

"""What the generate stage writes is what the evaluation reads."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumiere import sample_files
from lumiere.errors import DataError
from lumiere.sample_files import Sample, SetEntry


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


def entry(number: int, **changes: Any) -> SetEntry:
    made = SetEntry(
        prompt=f"ein müder Fuchs {number}",
        mode="text_to_video",
        seed=number,
        fps=8,
        clip_id=f"fox{number}@0",
        subject=f"fox{number}.mp4",
    )
    return replace(made, **changes)


def test_a_set_may_hold_clips_of_any_length_and_size(tmp_path: Path) -> None:
    clips = [
        (entry(0), video(3, 8, 8, 3)),
        (entry(1, style="ink", alpha=0.5, held_out=True), video(1, 4, 6, 3, seed=1)),
        (entry(2, window_size=4, overlap=0, multidiffusion=False), video(2, 8, 8, 3, seed=2)),
    ]
    assert sample_files.write_set(tmp_path, "styles", iter(clips)) == 3
    again = sample_files.read_set(tmp_path, "styles")
    assert len(again) == 3 and again.entries == [entry for entry, _ in clips]
    for (_, frames), (_, read) in zip(clips, again, strict=True):
        np.testing.assert_array_equal(read, frames)
    np.testing.assert_array_equal(again.frames(2), clips[2][1])


def test_a_set_is_written_and_read_clip_by_clip(tmp_path: Path) -> None:
    """Neither side may hold more than one clip: 64 MB of clips in less than 8 MB."""
    shape = (16, 128, 128, 3)  # 0.8 MB

    def made() -> Iterator[tuple[SetEntry, np.ndarray]]:
        for number in range(80):
            yield entry(number), np.full(shape, number, np.uint8)

    tracemalloc.start()
    try:
        sample_files.write_set(tmp_path, "held_out", made())
        total = 0
        for _, frames in sample_files.read_set(tmp_path, "held_out"):
            total += int(frames[0, 0, 0, 0])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == sum(range(80)) and peak < 8e6


def test_a_set_has_the_same_bytes_in_every_run(tmp_path: Path) -> None:
    for run in ("a", "b"):
        sample_files.write_set(tmp_path / run, "held_out", [(entry(0), video(2, 8, 8, 3))])
    for suffix in (".npz", ".json"):
        files = [tmp_path / run / "sets" / f"held_out{suffix}" for run in ("a", "b")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_set_that_is_not_finished_leaves_no_file(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[SetEntry, np.ndarray]]:
        yield entry(0), video(2, 8, 8, 3)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        sample_files.write_set(tmp_path, "held_out", broken())
    assert list((tmp_path / "sets").iterdir()) == []


def test_an_empty_set_is_a_set(tmp_path: Path) -> None:
    assert sample_files.write_set(tmp_path, "held_out", []) == 0
    assert list(sample_files.read_set(tmp_path, "held_out")) == []


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 8, 8)), np.zeros((0, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3))]
)
def test_an_array_that_is_no_video_is_an_error(tmp_path: Path, frames: np.ndarray) -> None:
    sample_files.write_set(tmp_path, "seams", [(entry(0), frames)])
    clips = sample_files.read_set(tmp_path, "seams")
    whole = r"^[^;]*seams\.npz: clip 0 is [^;]*; expected uint8 \(t, h, w, 3\); run [^;]* again$"
    for read_clip in (lambda: list(clips), lambda: clips.frames(0)):
        with pytest.raises(DataError, match=whole):  # the file and the cure once each
            read_clip()


def test_clips_and_rows_must_fit(tmp_path: Path) -> None:
    sample_files.write_set(tmp_path, "seams", [(entry(i), video(2, 8, 8, 3)) for i in range(2)])
    rows = tmp_path / "sets" / "seams.json"
    rows.write_text(json.dumps(json.loads(rows.read_text(encoding="utf-8"))[:1]))
    with pytest.raises(DataError, match=r"seams.npz: 2 clips for 1 row of seams.json"):
        sample_files.read_set(tmp_path, "seams")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": "0"}, "seed is '0'; expected int"),
        ({"alpha": None}, "alpha is None; expected float"),
        ({"overlap": 1.5}, "overlap is 1.5; expected"),
        ({"colour": "red"}, "expected the keys prompt, mode"),
    ],
)
def test_a_row_that_is_not_whole_is_an_error(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    sample_files.write_set(tmp_path, "seams", [(entry(0), video(2, 8, 8, 3))])
    rows = tmp_path / "sets" / "seams.json"
    rows.write_text(json.dumps([json.loads(rows.read_text(encoding="utf-8"))[0] | change]))
    with pytest.raises(DataError, match=f"seams.json: cannot be read .*{words}"):
        sample_files.read_set(tmp_path, "seams")


def test_an_unknown_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set 't2v'; allowed: text_to_video, held_out"):
        sample_files.read_set(tmp_path, "t2v")


def read(folder: Path, name: str) -> None:
    """Read all samples, or all clips of a set."""
    if name == "samples":
        sample_files.read_samples(folder)
    else:
        list(sample_files.read_set(folder, name))


@pytest.mark.parametrize("name", ["samples", *sample_files.SETS])
def test_missing_files_are_an_error_with_the_cure(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such file; run the generate stage first"):
        read(tmp_path, name)


@pytest.mark.parametrize(
    "name", ["a.mp4", "a.json", "a.known.npz", "sets/held_out.npz", "sets/held_out.json"]
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    frames = video(5, 16, 16, 3)
    known = {"generated": frames, "known": frames, "known_mask": frames[..., 0] % 2}
    info = {"name": "a", "mode": "text_to_video", "prompt": "a fox", "fps": 8}
    sample_files.write_sample(tmp_path, Sample(info, frames, known))
    sample_files.write_index(tmp_path, ["a"])
    sample_files.write_set(tmp_path, "held_out", [(entry(0), frames)])
    (tmp_path / name).write_bytes(b"\xff half of it")
    with pytest.raises(DataError, match=f"{name}: cannot be read .* run the generate stage again"):
        read(tmp_path, "held_out" if name.startswith("sets") else "samples")


@pytest.mark.parametrize("cut", [0.3, 0.6])
def test_damage_inside_a_set_is_found(tmp_path: Path, cut: float) -> None:
    sample_files.write_set(
        tmp_path, "held_out", [(entry(i), video(3, 16, 16, 3)) for i in range(3)]
    )
    path = tmp_path / "sets" / "held_out.npz"
    content = bytearray(path.read_bytes())
    place = int(len(content) * cut)
    content[place : place + 20] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"held_out\.npz: cannot be read"):
        read(tmp_path, "held_out")

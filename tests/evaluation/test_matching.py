"""Which real video a generated one is compared with, and how they are made comparable."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lumiere.data.video_io import write_video
from lumiere.errors import DataError
from lumiere.evaluation.matching import MatchedSets, match_folders
from lumiere.evaluation.videos import MAX_FRAMES, list_folder
from tests.evaluation.small_videos import drifting, write_folder
from tests.video_factory import numbered, read_number

Captions = dict[str, tuple[str, ...]]


def match(
    root: Path,
    generated: dict[str, np.ndarray],
    real: dict[str, np.ndarray],
    captions: Captions | None = None,
    **options: int | Fraction,
) -> MatchedSets:
    folders = write_folder(root / "generated", generated), write_folder(root / "real", real)
    generated_files, real_files = (list_folder(folder, captions) for folder in folders)
    return match_folders(generated_files, real_files, **options)  # type: ignore[arg-type]


def clips(*names: str, num_frames: int = 4) -> dict[str, np.ndarray]:
    """A GIF counts hundredths of a second, so that it is a little shorter than an mp4."""
    return {
        name: drifting(index, num_frames + name.endswith(".gif"))
        for index, name in enumerate(names)
    }


def test_by_name_and_else_by_caption(tmp_path: Path) -> None:
    captions: Captions = {"x.mp4": ("A  Cat",), "dog.mp4": ("a dog", "a cat"), "y.mp4": ("a bee",)}
    real = clips("cow.gif", "dog.mp4", "sub/ant.mp4")
    sets = match(tmp_path, clips("cow.mp4", "sub/ant.mp4", "x.mp4", "y.mp4"), real, captions)
    assert sets.partners == [0, 2, 1, None] and sets.num_matched == 3
    assert sets.real_captions == [(), ("a dog", "a cat"), ()]
    assert sets.generated_captions == [(), (), ("A  Cat",), ("a bee",)]
    assert any("same name or caption: 3 of 4" in note for note in sets.notes)
    video = sets.generated[2]
    assert (video.name, video.caption, video.subject) == ("x.mp4", "A  Cat", "x")


def test_a_name_of_another_folder_is_another_name(tmp_path: Path) -> None:
    sets = match(tmp_path, clips("a/x.mp4", "b/x.mp4"), clips("b/x.mp4", "x.mp4"))
    assert sets.partners == [None, 0]


def test_a_name_outdoes_a_caption_and_a_doubt_is_told(tmp_path: Path) -> None:
    captions: Captions = {"a.mp4": ("a cat",)}
    folder = write_folder(tmp_path / "generated", clips("a.mp4", "b.mp4"))
    generated = list_folder(folder, captions)
    folder = write_folder(tmp_path / "real", clips("a.mp4", "b.mp4", "c.mp4"))
    real = list_folder(folder, {"a.mp4": ("a dog",), "c.mp4": ("a cat",)})
    sets = match_folders(generated, real)
    assert sets.partners == [0, 1]
    assert any("captions differ: 'a cat' and 'a dog'" in note for note in sets.notes)


def test_real_videos_of_one_name_are_told_and_the_first_counts(tmp_path: Path) -> None:
    sets = match(tmp_path, clips("a.mp4", "b.mp4"), clips("a.gif", "a.mp4", "b.mp4"))
    assert sets.partners == [0, 2]
    told = "real videos of one name: a.gif, a.mp4; the first is the counterpart"
    assert told in sets.notes


def test_both_folders_may_be_one_and_that_is_told(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "same", clips("a.mp4", "b.mp4"))
    listed = list_folder(folder)
    sets = match_folders(listed, listed)
    assert sets.partners == [0, 1]
    assert any("both folders are the same one" in note for note in sets.notes)


def test_all_get_the_size_and_rate_of_most_generated_ones(tmp_path: Path) -> None:
    generated = {"a.mp4": drifting(0), "b.mp4": drifting(1), "c.mp4": drifting(2, 4, 40, 20)}
    sets = match(tmp_path, generated, {"a.mp4": drifting(0, 4, 48, 48), "b.mp4": drifting(1)})
    assert sets.size == (24, 24) and sets.fps == 8
    videos = [*sets.generated, *sets.real]
    assert {video.frames.shape for video in videos} == {(4, 24, 24, 3)}
    assert any(note.startswith("generated videos of another size: 1 of 3") for note in sets.notes)
    assert any(note.startswith("real videos of another size: 1 of 2") for note in sets.notes)


def test_the_length_is_that_of_the_shortest_generated_one(tmp_path: Path) -> None:
    generated = {"a.mp4": drifting(0, 5), "b.mp4": drifting(1, 3)}
    real = {"a.mp4": drifting(0, 6), "b.mp4": drifting(1, 5), "c.mp4": drifting(2, 2)}
    sets = match(tmp_path, generated, real)
    assert sets.num_frames == 3 and sets.partners == [0, 1]
    assert list(sets.other_windows) == [0]  # six frames hold two windows of three
    assert any(note.startswith("b.mp4 has only 3 frames, so 1 longer") for note in sets.notes)
    assert sets.unreadable == {
        str(tmp_path / "real" / "c.mp4"): "2 frames at 8 a second; 3 are needed"
    }


def test_a_few_short_real_videos_shorten_nothing_but_many_do(tmp_path: Path) -> None:
    generated = {"a.mp4": drifting(0, 6), "b.mp4": drifting(1, 6)}
    real = {"a.mp4": drifting(0, 4), "b.mp4": drifting(1, 6), "c.mp4": drifting(2, 4)}
    assert match(tmp_path, generated, real).num_frames == 4


def test_long_videos_are_measured_on_sixteen_frames(tmp_path: Path) -> None:
    long = {"a.mp4": drifting(0, 20), "b.mp4": drifting(1, 20)}
    assert match(tmp_path, long, long).num_frames == MAX_FRAMES


def test_the_second_window_follows_the_first(tmp_path: Path) -> None:
    real = {"a.mp4": numbered(9), "b.mp4": numbered(9, 1)}
    generated = {name: frames[:4] for name, frames in real.items()}
    sets = match(tmp_path, generated, real)
    assert [read_number(frame) for frame in sets.real[0].frames] == [0, 1, 2, 3]
    assert [read_number(frame) for frame in sets.other_windows[0]().frames] == [4, 5, 6, 7]


def test_a_rate_and_a_length_can_be_asked_for(tmp_path: Path) -> None:
    videos = {"a.mp4": numbered(9), "b.mp4": numbered(9, 1)}
    sets = match(tmp_path, videos, videos, num_frames=3, fps=Fraction(4))
    assert sets.fps == 4 and [read_number(frame) for frame in sets.real[0].frames] == [0, 2, 4]
    assert any(
        note.startswith("real videos with a higher frame rate: 2 of 2") for note in sets.notes
    )


def test_all_are_read_at_the_lower_rate_so_that_no_frame_is_repeated(tmp_path: Path) -> None:
    frames = numbered(16)
    for folder, fps, each in (("generated", 16, frames), ("real", 8, frames[::2])):
        for name in ("a.mp4", "b.mp4"):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_video(tmp_path / folder / name, each, fps)
    sets = match_folders(list_folder(tmp_path / "generated"), list_folder(tmp_path / "real"))
    assert sets.fps == 8 and sets.num_frames == 8
    seen = [[read_number(frame) for frame in s[0].frames] for s in (sets.generated, sets.real)]
    assert seen[0] == seen[1] == list(range(0, 16, 2))


@pytest.mark.parametrize(
    ("generated", "options", "message"),
    [
        (clips("a.mp4"), {}, "generated: 1 generated video to measure; a distance needs at least 2"),
        (
            clips("a.mp4", "b.mp4", num_frames=1), {},
            r"0 generated videos to measure \(2 cannot be used, such as a.mp4: 1 frame at 8 a second",
        ),
        (clips("a.mp4", "b.mp4"), {"num_frames": 40}, "a.mp4: 4 frames at 8 a second; 40 are needed"),
        (clips("a.mp4", "b.mp4"), {"fps": Fraction(1, 2)}, "1 frame at 0.5 a second; 2 are needed"),
    ],
)  # fmt: skip
def test_too_few_videos_are_one_sentence(
    tmp_path: Path, generated: dict[str, np.ndarray], options: dict[str, int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        match(tmp_path, generated, clips("a.mp4", "b.mp4"), **options)


def test_a_single_frame_is_left_out_and_does_not_shorten_the_others(tmp_path: Path) -> None:
    generated = {"a.mp4": drifting(0), "b.mp4": drifting(1), "c.mp4": drifting(2, 1)}
    sets = match(tmp_path, generated, clips("a.mp4", "b.mp4"))
    assert sets.num_frames == 4 and len(sets.generated) == 2
    assert "1 frame at 8 a second" in sets.unreadable[str(tmp_path / "generated" / "c.mp4")]

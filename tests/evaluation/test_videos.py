"""Folders of videos: what is listed, captioned and decoded, and what is told of files that are not."""

from __future__ import annotations

import json
import os
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lumiere.errors import DataError, VideoError
from lumiere.evaluation.videos import (
    LazyVideos,
    Video,
    fit,
    frames_at,
    is_blank,
    list_folder,
    most_common_size,
    read_captions,
    read_file,
    unused_captions,
)
from tests.evaluation.small_videos import FPS, drifting, write_folder
from tests.video_factory import numbered, read_number


def test_lists_videos_below_a_folder_in_the_order_of_names(tmp_path: Path) -> None:
    names = ["b.mp4", "a.gif", "deep/er/c.mp4", ".hidden.mp4", ".git/d.mp4"]
    write_folder(tmp_path, {name: drifting(0) for name in names})
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    found = list_folder(tmp_path)
    assert [entry.name for entry in found.entries] == ["a.gif", "b.mp4", "deep/er/c.mp4"]
    assert [entry.stem for entry in found.entries] == ["a", "b", "deep/er/c"]
    assert found.unreadable == {}


def test_knows_size_length_and_rate_without_decoding(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.mp4": drifting(0, 5, 24, 32)}, fps=12)
    [entry] = list_folder(tmp_path).entries
    assert (entry.height, entry.width, entry.num_frames, entry.fps) == (24, 32, 5, 12)
    assert frames_at(entry, Fraction(12)) == 5
    assert frames_at(entry, Fraction(24)) == 10 and frames_at(entry, Fraction(6)) == 2


def test_says_what_is_wrong_with_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder; give a folder of videos"):
        list_folder(tmp_path / "gone")
    with pytest.raises(DataError, match=r"no videos; expected files that end in .*\.mp4"):
        list_folder(tmp_path)


def test_every_kind_of_file_that_the_message_names_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        list_folder(tmp_path)
    suffixes = re.findall(r"\.[a-z0-9]+(?=,)", str(error.value).split("end in ")[1])
    assert {".mp4", ".gif", ".mpg"} <= set(suffixes)
    codecs = {
        ".gif": ("gif", "rgb8"),
        ".webm": ("libvpx-vp9", "yuv420p"),
        ".mpg": ("mpeg1video", "yuv420p"),
        ".mpeg": ("mpeg1video", "yuv420p"),
    }
    for suffix in suffixes:
        codec, pix_fmt = codecs.get(suffix, ("mpeg4", "yuv420p"))
        with av.open(str(tmp_path / f"video{suffix}"), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 32, 32, pix_fmt
            for picture in drifting(0, 4, 32, 32):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    found = list_folder(tmp_path)
    assert found.unreadable == {} and len(found.entries) == len(suffixes)
    for entry in found.entries:
        assert len(read_file(entry, 4, Fraction(25), (32, 32))) == 4


def test_files_that_cannot_be_read_are_kept_with_the_reason(tmp_path: Path) -> None:
    write_folder(tmp_path, {"good.mp4": drifting(0), "cut.mp4": drifting(1, 16)})
    content = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 4 // 5])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "moving.webp").write_bytes(b"RIFF")
    (tmp_path / "text.mp4").write_text("not a video")
    found = list_folder(tmp_path)
    assert [entry.name for entry in found.entries] == ["good.mp4"]
    assert set(found.unreadable) == {"cut.mp4", "empty.mp4", "moving.webp", "text.mp4"}
    assert "damaged or cut off; get the file again" in found.unreadable["cut.mp4"]
    assert "convert it to mp4" in found.unreadable["moving.webp"]
    assert "cannot be opened" in found.unreadable["text.mp4"]


def test_a_frame_that_the_decoder_conceals_is_damage(tmp_path: Path) -> None:
    """Players skip or guess such frames; measuring the guess would blame the model."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 48, 48, 3), dtype=np.uint8)
    write_folder(tmp_path, {"a.mp4": noise})
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = b"\x55" * 2000
    (tmp_path / "a.mp4").write_bytes(content)
    [entry] = list_folder(tmp_path).entries  # the packets are all there
    with pytest.raises(VideoError, match="damaged or cut off; get the file again"):
        read_file(entry, 8, entry.fps, (48, 48))


def test_captions_come_from_the_csv_by_any_name_or_else_from_the_sidecar(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    names = ["sub/a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4", "f.mp4", "g.mp4"]
    write_folder(videos, {name: drifting(0, 2) for name in names})
    for name, content in (
        ("d", '{"prompt": "a sidecar"}'), ("e", "not JSON"), ("f", "[1]"), ("g", '{"prompt": " "}'),
        ("c", '{"prompt": "the CSV file wins"}'),
    ):  # fmt: skip
        (videos / f"{name}.json").write_text(content)
    table = tmp_path / "captions.csv"
    table.write_text(
        'caption,video\n"a cat, <b>bold</b>",sub/a.mp4\n"déjà\n猫",b.mp4\none,c\ntwo,c\none,c\n'
        "nobody,h.mp4\n",
        encoding="utf-8",
    )
    captions = read_captions(table)
    folder = list_folder(videos, captions)
    found = {entry.name: entry.captions for entry in folder.entries}
    assert found == {
        "sub/a.mp4": ("a cat, <b>bold</b>",),
        "b.mp4": ("déjà\n猫",),
        "c.mp4": ("one", "two"),
        "d.mp4": ("a sidecar",),
        "e.mp4": (),
        "f.mp4": (),
        "g.mp4": (),
    }
    assert unused_captions(captions, [folder]) == ["h.mp4"]


def test_names_the_row_of_a_caption_file_that_is_wrong(tmp_path: Path) -> None:
    table = tmp_path / "captions.csv"
    table.write_text("video,caption\na.mp4,a cat\nb.mp4,\n")
    with pytest.raises(DataError, match=r"captions\.csv, line 3: caption is empty"):
        read_captions(table)


def test_reads_the_first_frames_by_time(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.mp4": numbered(12)}, fps=8)
    [entry] = list_folder(tmp_path).entries

    def numbers(num_frames: int, fps: int) -> list[int]:
        frames = read_file(entry, num_frames, Fraction(fps), (entry.height, entry.width))
        return [read_number(frame) for frame in frames]

    assert numbers(4, 8) == [0, 1, 2, 3]
    assert numbers(4, 4) == [0, 2, 4, 6]
    assert numbers(4, 16) == [0, 0, 1, 1]
    with pytest.raises(VideoError, match="12 frames at 8 a second; 13 are needed"):
        numbers(13, 8)


def test_fitting_covers_the_size_and_crops_the_middle() -> None:
    frames = np.zeros((1, 10, 40, 3), np.uint8)
    frames[:, :, 10:30] = 200  # the middle half
    fitted = fit(frames, (20, 40))
    assert fitted.shape == (1, 20, 40, 3) and (abs(fitted[:, :, 2:-2].astype(int) - 200) < 3).all()
    assert fit(frames, (10, 40)) is frames
    noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    assert fit(noise, (8, 8)).std() < noise.std() / 4  # shrinking averages


def test_a_set_reads_a_video_when_it_is_asked_for() -> None:
    read: list[int] = []

    def reader(index: int) -> Video:
        read.append(index)
        return Video(str(index), drifting(index), FPS)

    videos = LazyVideos([lambda index=index: reader(index) for index in range(3)])  # type: ignore[misc]
    assert len(videos) == 3 and not read and list(videos.names) == ["video 0", "video 1", "video 2"]
    assert videos[1].name == "1" and read == [1]
    assert [video.name for video in videos] == ["0", "1", "2"]


def test_blank_is_one_colour_over_all_frames() -> None:
    black = np.zeros((3, 4, 4, 3), np.uint8)
    assert is_blank(black) and is_blank(black + np.array([1, 2, 3], np.uint8))
    flash = black.copy()
    flash[1] = 255
    assert not is_blank(flash)


def test_the_most_common_size_wins_and_the_first_of_equals(tmp_path: Path) -> None:
    sizes = {"a.mp4": (24, 32), "b.mp4": (32, 24), "c.mp4": (32, 24), "d.mp4": (16, 16)}
    write_folder(tmp_path, {name: drifting(0, 2, *size) for name, size in sizes.items()})
    entries = list_folder(tmp_path).entries
    assert most_common_size(entries) == (32, 24)
    assert most_common_size([entries[0], entries[3]]) == (24, 32)
    assert json.dumps(most_common_size(entries[-1:])) == "[16, 16]"

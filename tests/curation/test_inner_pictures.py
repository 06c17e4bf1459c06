"""Shots of one file may have different black bars; each clip is cropped by its own."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumiere.config import CurateConfig
from lumiere.curation import inner_pictures
from lumiere.curation.captions import Caption, read_captions
from lumiere.curation.clip_frames import clip_frames
from lumiere.curation.manifest import open_manifest, write_manifest
from lumiere.curation.measurement import Measurement, Segment, from_bytes, measure_video, to_bytes
from lumiere.curation.verdicts import decide
from lumiere.data import extract
from lumiere.data.clips import ClipStore
from lumiere.data.extract import fit, load_windows
from lumiere.data.prepare import COLUMNS, cut_all, write_clips
from lumiere.data.shards import unpack_arrays
from lumiere.data.window_choice import WindowSettings
from lumiere.data.workers import Failure
from lumiere.errors import DataError, FetchError, VideoError
from tests.curation.test_curate_and_decode import in_this_process
from tests.data.test_bars import shots_of
from tests.video_factory import encode

CONFIG = CurateConfig(workers=1)
LETTERBOX, PILLARBOX = (0, 24, 128, 80), (32, 0, 64, 128)
Box = tuple[int, int, int, int]


def boxed(frames: np.ndarray, box: Box) -> np.ndarray:
    """Make everything outside a box black."""
    left, top, width, height = box
    inner = (slice(None), slice(top, top + height), slice(left, left + width))
    black = np.zeros_like(frames)
    black[inner] = frames[inner]
    return black


def measured(folder: Path, *shots: np.ndarray, spans: Any = (), **options: Any) -> Measurement:
    encode(folder / "a.mp4", np.concatenate(shots), **options)
    return measure_video(folder, "a.mp4", spans, 27.0, folder / "scratch")


def boxes_of(measurement: Measurement) -> list[Box | None]:
    assert not measurement.reason, measurement.detail
    return [segment.box for segment in measurement.segments]


def rows_of(folder: Path, measurement: Measurement) -> list[dict[str, Any]]:
    spans = [(shot[0], shot[1]) for shot in measurement.shots]
    lines = [f"a.mp4,words,{float(start)},{float(end)}" for start, end in spans]
    (folder / "captions.csv").write_text("\n".join(["video,caption,start,end", *lines]))
    captions = read_captions(folder / "captions.csv")
    again = measure_video(folder, "a.mp4", tuple(spans), 27.0, folder / "scratch")
    rows, _ = decide({"a.mp4": again}, captions, CONFIG)
    assert [row["verdict"] for row in rows] == ["accepted"] * len(spans)
    return rows


def test_a_letterboxed_shot_and_a_full_one_are_both_read_right(tmp_path):
    first, second = shots_of(2)
    found = measured(tmp_path, boxed(first, LETTERBOX), second)
    assert boxes_of(found) == [LETTERBOX, None] and found.notes == ()
    assert boxes_of(from_bytes(to_bytes(found))) == [LETTERBOX, None]
    assert found.signatures[0].mean(axis=(2, 3)).min() > 40, "no black rows"
    rows = rows_of(tmp_path, found)
    assert [row["crop"] for row in rows] == [list(LETTERBOX), []]
    assert [(row["width"], row["height"]) for row in rows] == [(128, 80), (128, 128)]
    assert [row["notes"] for row in rows] == [["black bars"], []]
    write_manifest(tmp_path / "m.parquet", rows)
    opened = open_manifest(tmp_path / "m.parquet", COLUMNS, "accepted")
    settings = WindowSettings(16, 16, 64, clips_per_video=1)
    for decoder in ("pyav", "decord"):
        scratch = tmp_path / f"windows of {decoder}"
        files, failures = cut_all(
            opened, tmp_path, settings, 1, 60, scratch, decoder=decoder, run=in_this_process
        )
        assert not failures
        for clip_id, shot in (("a#0", first[:, 24:104]), ("a#1", second)):
            (video,) = load_windows(files[clip_id]).videos
            for i, frame in enumerate(unpack_arrays(video).values()):
                assert np.abs(frame.astype(int) - fit(shot[i], (64, 64))).mean() < 8
    spans = list(found.shots)
    letterboxed, full = clip_frames(tmp_path, "a.mp4", spans, boxes_of(found))
    assert letterboxed.shape == (4, 80, 128, 3) and full.shape == (4, 128, 128, 3)


def test_each_clip_gets_the_size_of_its_own_picture(tmp_path, monkeypatch):
    first, second = shots_of(2)
    rows = rows_of(tmp_path, measured(tmp_path, boxed(first, LETTERBOX), boxed(second, PILLARBOX)))
    assert [row["crop"] for row in rows] == [list(LETTERBOX), list(PILLARBOX)]
    rows = [row | {"split": "train"} for row in rows]
    settings = WindowSettings(16, 16, ((64, 64), (40, 64), (64, 32)), clips_per_video=1)
    read = []
    for name in ("hash_with_progress", "decode_spans"):
        real = getattr(extract, name)
        monkeypatch.setattr(extract, name, lambda *a, n=name, f=real: read.append(n) or f(*a))
    files, failures = cut_all(
        rows, tmp_path, settings, 1, 60, tmp_path / "windows", run=in_this_process
    )
    assert not failures
    assert read == ["hash_with_progress", "decode_spans"], "the file is read once"

    def gone(_, tasks, *limits):
        return [(i, Failure("", "", FetchError("gone"))) for i in range(len(tasks))]

    with pytest.raises(DataError, match=r"^a\.mp4: gone"):
        cut_all(rows, tmp_path, settings, 1, 60, tmp_path / "gone", run=gone)
    words = (np.zeros((4, 8), np.float16), np.ones(4, np.uint8))
    text = {"text_encoder": "minilm", "embed_dim": 8, "max_text_tokens": 4}
    embeddings = {"words": words, "": words}
    write_clips(tmp_path / "clips", rows, files, {}, embeddings, settings, 4, **text)
    clips = ClipStore(tmp_path / "clips")
    assert [clips[i].frames.shape for i in range(2)] == [(16, 40, 64, 3), (16, 64, 32, 3)]
    assert min(clips[i].frames.mean(axis=(0, 3)).min() for i in range(2)) > 40, "no bar is left"


@pytest.mark.parametrize("crop", [[8, 24, 128, 80], [500, 0, 300, 64], [0, 100, 128, 80]])
def test_a_crop_that_a_person_wrote_outside_the_frames_is_named(tmp_path, crop):
    """No clip of the video without bars tells the size of its frames in the manifest."""
    first, second = shots_of(2)
    rows = rows_of(tmp_path, measured(tmp_path, boxed(first, LETTERBOX), boxed(second, PILLARBOX)))
    rows[0] |= {"crop": crop, "width": crop[2], "height": crop[3], "split": "train"}
    rows[1] |= {"split": "train"}
    write_manifest(tmp_path / "m.parquet", rows)
    opened = open_manifest(tmp_path / "m.parquet", COLUMNS, "accepted")
    settings = WindowSettings(16, 16, 64, clips_per_video=1)
    for decoder in ("pyav", "decord"):
        files, failures = cut_all(
            opened, tmp_path, settings, 1, 60, tmp_path / decoder, decoder=decoder, run=in_this_process
        )  # fmt: skip
        assert list(files) == ["a#1"]
        assert failures == {
            "a#0": f"crop is {crop}; expected a box within the video's frames of 128x128 pixels; "
            "run the curate stage again, or correct the cell"
        }


def test_bars_of_the_whole_file_and_more_of_one_shot(tmp_path):
    first, second = shots_of(2)
    window = (32, 24, 64, 80)
    assert boxes_of(measured(tmp_path, boxed(first, LETTERBOX), boxed(second, window))) == [
        LETTERBOX, window,
    ]  # fmt: skip


@pytest.mark.parametrize("side", [128, 256])
def test_bars_do_not_count_in_the_sharpness_of_a_shot(tmp_path, side):
    first, second = (shot.repeat(side // 128, 1).repeat(side // 128, 2) for shot in shots_of(2))
    box = (0, side // 4, side, side // 2)
    bars = measured(tmp_path, boxed(first, box), second)
    (tmp_path / "bare").mkdir()
    bare = measured(tmp_path / "bare", first[:, side // 4 : -side // 4])
    assert boxes_of(bars) == [box, None]
    assert bars.segments[0].sharpness == pytest.approx(bare.segments[0].sharpness, rel=0.1)


def test_a_captioned_part_has_the_bars_of_its_shot(tmp_path):
    first, second = shots_of(2)
    spans = ((0, 1), (2, 4))
    found = measured(tmp_path, boxed(first, LETTERBOX), second, spans=spans)
    assert boxes_of(found) == [LETTERBOX, None, LETTERBOX, None]


def test_bars_in_doubt_are_noted(tmp_path):
    """Stripes in them are no text, and vanish in the small pictures."""
    first, second = (shot.repeat(2, 1).repeat(2, 2) for shot in shots_of(2))
    frames = boxed(first, (0, 64, 256, 128))
    frames[:, 1:64, ::2] = frames[:, 193:-1, ::2] = 42
    found = measured(tmp_path, frames, second)
    assert boxes_of(found) == [None, None]
    assert found.notes == ("may have bars in 1 of 2 shots",)


@pytest.mark.parametrize("part", [slice(None), slice(40, 68)], ids=["all", "a column"])
@pytest.mark.parametrize("flash", [[7], [8], [9, 10], [11, 12]])
def test_bars_that_a_flash_touches_are_noted(tmp_path, flash, part):
    """Whether the flash is among the frames that are looked at closely or not."""
    first, second = shots_of(2)
    frames = boxed(first, LETTERBOX)
    frames[flash, :, part] = 250
    found = measured(tmp_path, frames, second)
    assert len(found.shots) == 2 and boxes_of(found) == [None, None]
    assert found.notes == ("may have bars in 1 of 2 shots",)
    (tmp_path / "alone").mkdir()
    alone = measured(tmp_path / "alone", frames)
    assert boxes_of(alone) == [None] and alone.notes == ("may have bars",)


@pytest.mark.parametrize("bars", ["one", "crossed by a subtitle"])
def test_bars_of_one_shot_that_are_no_clean_pair_are_noted(tmp_path, bars):
    first, second = shots_of(2)
    if bars == "one":
        first[:, :24] = 0
    else:
        first = boxed(first, LETTERBOX)
        first[:, 98:112, 8:120] = 230  # over the edge of the lower bar, at row 104
    found = measured(tmp_path, first, second)
    assert boxes_of(found) == [None, None]
    assert found.notes == ("may have bars in 1 of 2 shots",)


def test_a_doubt_about_the_video_ends_when_all_shots_have_bars():
    notes = ["may have bars"]
    inner_pictures._note(notes, 1, 0, 2)
    assert notes == ["may have bars"]
    inner_pictures._note(notes, 2, 0, 2)
    assert notes == []


def test_a_part_that_is_not_used_has_the_bars_of_the_whole_video(tmp_path):
    first, second = shots_of(2)
    span = (Fraction(1), Fraction(3))  # over the cut
    captions = {"a.mp4": [Caption("words", span)]}
    for other, crop in ((LETTERBOX, list(LETTERBOX)), (PILLARBOX, [])):
        frames = boxed(first, LETTERBOX), boxed(second, other)
        rows, _ = decide({"a.mp4": measured(tmp_path, *frames, spans=(span,))}, captions, CONFIG)
        (row,) = (row for row in rows if row["reason"] == "caption_spans_cuts")
        assert (row["crop"], row["notes"]) == (crop, ["black bars"] if crop else [])


def test_what_another_caption_covers_does_not_decide_the_bars_of_the_video(tmp_path):
    first, second = (boxed(shot, LETTERBOX) for shot in shots_of(2))
    first[:8] = boxed(first[:8], PILLARBOX)
    whole = (Fraction(1), Fraction(3))  # over the cut
    boxes = []
    for spans in ((whole,), ((Fraction(0), Fraction(1)), whole)):
        found = measured(tmp_path, first, second, spans=spans)
        boxes.append(found.box_of(Segment(*whole, whole, 0.0, 0.0)))
        assert found.shots[0][1] == 2
    assert boxes == [LETTERBOX, LETTERBOX]


def test_bars_stay_noted_if_a_second_look_fails(tmp_path, monkeypatch):
    def fail(*_: Any) -> None:
        raise VideoError("gone")

    monkeypatch.setattr(inner_pictures, "decode_spans", fail)
    first, second = shots_of(2)
    found = measured(tmp_path, boxed(first, LETTERBOX), second)
    assert boxes_of(found) == [None, None]
    assert found.notes == ("may have bars in 1 of 2 shots",)


def test_files_whose_clips_show_no_bars_are_decoded_once(tmp_path, monkeypatch):
    first, second = shots_of(2)
    calls = []
    monkeypatch.setattr(inner_pictures, "decode_spans", lambda *a: calls.append(a) or iter(()))
    assert boxes_of(measured(tmp_path, first, second)) == [None, None]
    letterboxed = [boxed(shot, LETTERBOX) for shot in (first, second)]
    assert boxes_of(measured(tmp_path, *letterboxed)) == [LETTERBOX] * 2
    assert not calls

"""Odd inputs pass through both stages: each gets its verdict, and each clip keeps its caption."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import random
import subprocess
import sys
import tarfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import lumiere.curation.curate as curate_module
from lumiere.config import CurateConfig
from lumiere.curation import measurement
from lumiere.curation.captions import Caption, read_captions
from lumiere.curation.curate import curate
from lumiere.curation.manifest import empty_row, read_manifest, write_manifest
from lumiere.curation.manifest_report import counts, write_report
from lumiere.curation.reasons import Reason, Rejection
from lumiere.curation.verdicts import clip_ids, decide
from lumiere.data import prepare
from lumiere.data.clips import ClipStore
from lumiere.data.extract import extract_video, extract_windows
from lumiere.data.video_io import read_video
from lumiere.data.window_choice import Source, WindowSettings
from lumiere.data.workers import Failure
from lumiere.errors import DataError, ParamsError, VideoError
from tests import forked
from tests.curation.test_scores import heart, textured
from tests.video_factory import audio_only, encode, numbered, open_gop, read_numbers, truncated

ROOT = Path(__file__).resolve().parents[2]
CONFIG = CurateConfig(timeout_s=20.0, workers=2, min_side=48)
SETTINGS = WindowSettings(fps=16, num_frames=16, size=64, clips_per_video=2)

EXPECTED = {
    "cuts#0": "caption_spans_cuts",
    "cuts#1": "caption_spans_cuts",
    "empty": "unreadable",
    "missing.mp4": "caption_without_video",
    "no-caption": "no_caption",
    "notes": "not_a_video",
    "open-gop": "",
    "outside": "outside_folder",
    "pipe": "not_a_file",
    "plain.mp4": "",
    "plain.mkv": "duplicate",  # at a lower quality
    "playlist": "unreadable",
    "short": "too_short",
    "small": "too_small",
    "sound": "unreadable",
    "spans#0": "",
    "spans#1": "",
    "spans#2": "caption_spans_cuts",
    "still": "no_motion",
    "sub/deep": "",
    "truncated": "truncated",
    "wrong-span#0": "bad_span",
}


def two_shots() -> np.ndarray:
    """Make 48 frames with a hard cut in the middle."""
    frames = numbered(48, subject=9)
    frames[:24, :48] //= 3
    frames[24:, :48] = 255 - frames[24:, :48] // 3
    return frames


def write_captions(path: Path, rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("video", "caption", "start", "end"), *rows])
    return path


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> tuple[Path, Path]:
    """Make a raw folder with everything that people put into raw folders, and its captions."""
    folder = tmp_path_factory.mktemp("odd inputs")
    raw = folder / "raw"
    encode(raw / "plain.mp4", numbered(48, 1))
    encode(raw / "plain.mkv", numbered(48, 1), crf="26")
    open_gop(raw / "open-gop.mp4", numbered(48, 2))
    encode(raw / "sub" / "deep.mp4", numbered(40, 3), 20)
    encode(raw / "still.mp4", np.repeat(numbered(1, 4), 32, axis=0))
    encode(raw / "short.mp4", numbered(10, 5))
    encode(raw / "small.mp4", numbered(20, 6)[:, :32])
    encode(raw / "no-caption.mp4", numbered(24, 7))
    encode(raw / "wrong-span.mp4", numbered(24, 8))
    encode(raw / "cuts.mp4", two_shots())
    encode(raw / "spans.mp4", np.concatenate([two_shots()[:24], numbered(40, 10, first=24)]))
    encode(folder / "whole.mp4", numbered(48, 11), crf="1")
    truncated(raw / "truncated.mp4", folder / "whole.mp4", 0.6)
    audio_only(raw / "sound.mp4")
    (raw / "empty.mp4").touch()
    (raw / "notes.txt").write_text("nothing to see")
    (raw / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\nplain.mp4\n#EXT-X-ENDLIST\n")
    (raw / "outside.mp4").symlink_to(folder / "whole.mp4")
    os.mkfifo(raw / "pipe.mp4")
    names = [
        path.relative_to(raw).as_posix()
        for path in raw.rglob("*")
        if path.suffix in (".mp4", ".mkv")
    ]
    whole = [
        name
        for name in sorted(names)
        if name not in ("no-caption.mp4", "spans.mp4", "wrong-span.mp4")
    ]
    rows = [(name, f"this is {name}", "", "") for name in [*whole, "missing.mp4"]]
    rows += [(f"./{whole[0]}", "", "", "")]
    rows += [
        ("spans.mp4", "before the cut", "0", "1.5"),
        ("spans.mp4", "after the cut", "1.52", "3.5"),
    ]
    rows += [
        ("spans.mp4", "over the cut", "1.0", "2.0"),
        ("wrong-span.mp4", "later than its end", "9", "11"),
    ]
    return raw, write_captions(folder / "captions.csv", rows)


@pytest.fixture(scope="module")
def curated(odd, tmp_path_factory):
    """Curate once, and return the rows, the pictures and the scratch folder."""
    scratch = tmp_path_factory.mktemp("scratch")
    return *curate(*odd, CONFIG, scratch), scratch


def test_every_input_has_its_verdict(curated):
    rows = {row["clip_id"]: row for row in curated[0]}
    found = {clip_id: row["reason"] for clip_id, row in rows.items()}
    assert found == EXPECTED
    assert list(rows) == sorted(rows)
    assert all(
        (row["verdict"] == "accepted") == (row["reason"] == "") == (row["split"] != "")
        for row in rows.values()
    )
    assert all(row["detail"] for row in rows.values() if row["reason"])
    assert rows["plain.mkv"]["detail"] == "duplicate_of:plain.mp4"
    assert rows["plain.mp4"]["captions"] == ["this is plain.mp4", "this is plain.mkv"]
    assert rows["plain.mkv"]["group"] == rows["plain.mp4"]["group"]
    assert rows["spans#0"]["captions"] == ["before the cut"]
    assert rows["spans#1"]["captions"] == ["after the cut"]
    assert rows["open-gop"]["captions"] == ["this is open-gop.mp4"]
    assert (rows["open-gop"]["decoder"], rows["open-gop"]["decoder_reason"]) == ("pyav", "open GOP")
    assert rows["plain.mp4"]["decoder"] == "decord"
    assert rows["sub/deep"]["num_frames"] == 40


def test_results_depend_on_neither_workers_nor_order(odd, curated, tmp_path):
    rows, pictures, _ = curated
    again, shown = curate(*odd, dataclasses.replace(CONFIG, workers=1), tmp_path / "scratch")
    for name, content in (("a", rows), ("b", again)):
        write_manifest(tmp_path / name, content)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_manifest(tmp_path / "a") == rows
    for name, content, images in (("one", rows, pictures), ("two", again, shown)):
        write_report(tmp_path / name, content, images, CONFIG.min_motion)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    page = (tmp_path / "one" / "report.md").read_text()
    for row in rows:
        if row["reason"]:
            assert f"`{row['reason']}`" in page
        if row["reason"] not in ("", "duplicate"):
            assert row["detail"] in page
    assert "It shows the same as plain.mp4, which is kept." in page
    assert counts(rows)["rejected_caption_spans_cuts"] == 3


def test_the_report_counts_videos_and_not_rows_by_decoder(curated, tmp_path):
    rows, pictures, _ = curated
    parts = []
    for i in range(3):
        row = {**empty_row(), "clip_id": f"a#{i}", "video": "a.ts", "decoder": "pyav"}
        row |= {"verdict": "rejected", "reason": "no_motion", "decoder_reason": "container mpegts"}
        parts.append(row)
    write_report(tmp_path, [*rows, *parts], pictures, CONFIG.min_motion)
    assert "| container mpegts | 1 |" in (tmp_path / "report.md").read_text()


def test_finished_measurements_are_not_made_again(odd, curated, monkeypatch):
    rows, _, scratch = curated
    monkeypatch.setattr(measurement, "_measure", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(curate_module, "run_tasks", in_this_process)
    assert curate(*odd, CONFIG, scratch)[0] == rows
    # A measurement does not depend on the thresholds.
    strict = curate(*odd, dataclasses.replace(CONFIG, min_seconds=2.4), scratch)[0]
    assert {row["clip_id"] for row in strict if row["reason"] == "too_short"} > {
        "short",
        "sub/deep",
    }


def in_this_process(function, tasks, workers, timeout_s, memory_mb):
    """Replace `run_tasks`; return the results in another order than the tasks."""
    order = list(range(len(tasks)))
    random.Random(1).shuffle(order)
    for index in order:
        try:
            yield index, function(*tasks[index])
        except Exception as error:
            yield index, Failure("error", str(error), error)


class LengthEncoder:
    """Token states that tell which sentence they belong to."""

    def encode(self, texts):
        states = [
            [[float(sum(text.encode())) % 1000] * 2, [float(len(text))] * 2] for text in texts
        ]
        return torch.tensor(states), torch.ones(len(texts), 2, dtype=torch.int64)


def prepared(rows, raw, folder, scratch, **changes) -> ClipStore:
    """Write the shards of accepted rows, with the functions of the stage."""
    files, failures = prepare.cut_all(rows, raw, SETTINGS, 2, 20.0, scratch)
    embeddings = prepare.embed_captions(
        ["", *(caption for row in rows for caption in row["captions"])], LengthEncoder()
    )
    prepare.write_clips(
        folder,
        rows,
        files,
        failures,
        embeddings,
        SETTINGS,
        3,
        text_encoder="test",
        embed_dim=2,
        max_text_tokens=2,
    )
    return ClipStore(folder)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Make twelve videos; the frames of video i carry the numbers from 100 * i."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(12):
        encode(
            folder / "raw" / f"v{i:02d}.mp4", numbered(36, i, first=100 * i, width=96), 16 + i % 3
        )
    rows = [
        (f"v{i:02d}.mp4", f"video {i} of {word}", "", "")
        for i in range(12)
        for word in ("one", "three")
    ]
    captions = write_captions(folder / "captions.csv", rows)
    manifest, _ = curate(
        folder / "raw",
        captions,
        dataclasses.replace(CONFIG, validation_fraction=0.0),
        folder / "scratch",
    )
    assert [row["verdict"] for row in manifest] == ["accepted"] * 12
    return folder / "raw", manifest


def test_captions_stay_with_their_clips(many, tmp_path, monkeypatch):
    raw, rows = many

    def failing(sources: tuple[Source, ...], *rest):
        if sources[0].path.stem in ("v04", "v05", "v09"):
            raise VideoError("broken in the middle")
        return extract_video(sources, *rest)

    monkeypatch.setattr(prepare, "extract_video", failing)
    monkeypatch.setattr(prepare, "run_tasks", in_this_process)
    store = prepared(rows, raw, tmp_path / "clips", tmp_path / "scratch")
    left = [i for i in range(12) if i not in (4, 5, 9)]
    assert [store[k].clip_id for k in range(len(store))] == [
        f"v{i:02d}@{n}" for i in left for n in (0, 1)
    ]
    index = json.loads((tmp_path / "clips" / "index.json").read_text())
    assert index["failures"] == {f"v{i:02d}": "broken in the middle" for i in (4, 5, 9)}
    for k in range(len(store)):
        clip, i = store[k], left[k // 2]
        assert clip.captions == [f"video {i} of one", f"video {i} of three"]
        for caption, states in zip(clip.captions, clip.prompt_embeds, strict=True):
            assert states[1, 0] == len(caption)
            assert states[0, 0] == np.float16(sum(caption.encode()) % 1000)
        # The frames' own numbers, read from the source by time, not from any index.
        source = read_video(raw / clip.video, start=clip.start)[:16]
        assert [number // 100 for number in read_numbers(source)] == [i] * 16
        assert np.array_equal(clip.frames, source[:, :, 16:80])


def test_a_killed_decoding_goes_on_to_the_same_bytes(many, tmp_path, monkeypatch):
    raw, rows = many
    whole = prepared(rows, raw, tmp_path / "whole", tmp_path / "one")
    prepare.cut_all(rows[:7], raw, SETTINGS, 2, 20.0, tmp_path / "two")
    (tmp_path / "two" / ".half.npz.1.tmp").write_bytes(b"half a file")
    (tmp_path / ".resumed.tmp").mkdir()
    made = []
    original = extract_windows.__globals__["_cut"]
    monkeypatch.setitem(
        extract_windows.__globals__, "_cut", lambda *a: made.append(a) or original(*a)
    )
    monkeypatch.setattr(prepare, "run_tasks", in_this_process)
    resumed = prepared(rows, raw, tmp_path / "resumed", tmp_path / "two")
    assert len(made) == 5
    assert len(whole) == len(resumed) == 24
    for path in sorted(whole.folder.iterdir()):
        assert path.read_bytes() == (resumed.folder / path.name).read_bytes()


def test_a_file_that_changed_since_curation_is_not_used(many, tmp_path):
    raw, rows = many
    source = Source(raw / "v01.mp4", rows[0]["sha256"], 0.0, 1.5, "pyav")
    with pytest.raises(VideoError, match="changed since it was curated"):
        extract_windows(source, SETTINGS, tmp_path)


def test_a_part_after_a_cut_begins_after_the_cut(curated, odd, tmp_path):
    row = next(row for row in curated[0] if row["clip_id"] == "spans#1")
    assert (
        read_numbers(read_video(odd[0] / "spans.mp4", start=row["start"], decoder="pyav"))[0] >= 24
    )


def test_a_name_that_is_no_text_gets_a_row(tmp_path):
    (tmp_path / "raw").mkdir()
    encode(tmp_path / "raw" / "a.mp4", numbered(20))
    os.link(tmp_path / "raw" / "a.mp4", os.fsencode(tmp_path / "raw") + b"/\xff.mp4")
    captions = write_captions(tmp_path / "captions.csv", [("a.mp4", "a", "", "")])
    rows, _ = curate(tmp_path / "raw", captions, CONFIG, tmp_path / "scratch")
    write_manifest(tmp_path / "manifest.parquet", rows)
    assert [(row["clip_id"], row["reason"]) for row in rows] == [("\\xff", "not_a_file"), ("a", "")]


def test_look_alikes_stay_on_one_side_and_none_of_them_is_lost(tmp_path):
    # With this seed the draws of "blue" and "texture" hold them out, that of "green" does not.
    config = dataclasses.replace(CONFIG, seed=0, validation_fraction=0.5)
    clips = {
        "blue": heart((30, 60, 230)),
        "green": heart((40, 190, 60)),
        "texture": textured(1, 24),
    }
    for name, frames in clips.items():
        encode(tmp_path / "raw" / f"{name}.mp4", frames)
    captions = write_captions(
        tmp_path / "captions.csv", [(f"{name}.mp4", name, "", "") for name in clips]
    )
    rows, _ = curate(tmp_path / "raw", captions, config, tmp_path / "scratch")
    found = {row["clip_id"]: (row["reason"], row["split"]) for row in rows}
    assert found == {"blue": ("", "train"), "green": ("", "train"), "texture": ("", "validation")}
    assert rows[0]["group"] == rows[1]["group"] != rows[2]["group"]


def test_names_stay_apart():
    ids = clip_ids(["a.mp4", "b.mp4", "b.mkv", "x/a.mp4", "c#1.mp4", "d.e.mp4"])
    assert list(ids.values()) == ["a", "b.mp4", "b.mkv", "x/a", "c#1.mp4", "d.e"]
    names = ["a.mp4", "a.mkv", "a.mp4.mov"]
    assert list(clip_ids(names).values()) == names


def test_a_caption_whose_suffix_was_forgotten_gets_a_row():
    outcomes = {"beach.mp4": Rejection(Reason.TIMEOUT)}
    rows, _ = decide(outcomes, {"beach": [Caption("a beach")]}, CONFIG)
    assert [(row["clip_id"], row["reason"]) for row in rows] == [
        ("beach", "timeout"),
        ("beach#caption", "caption_without_video"),
    ]


def test_timeouts_and_crashes_become_rows():
    found = [
        curate_module._rejection(Failure(kind, "so")).reason
        for kind in ("timeout", "crashed", "error")
    ]
    assert found == [Reason.TIMEOUT, Reason.CRASHED, Reason.UNREADABLE]
    rows, _ = decide({"a.mp4": Rejection(Reason.TIMEOUT)}, {"a.mp4": [Caption("a")]}, CONFIG)
    assert [(row["clip_id"], row["reason"]) for row in rows] == [("a", "timeout")]


def test_a_caption_with_an_unusable_span_is_not_lost_silently(odd, curated):
    """Whatever else the video has, the caption gets a row of its own."""
    path = odd[0] / "plain.mp4"
    outcome = measurement.measure_video(odd[0], path.name, (), CONFIG.shot_threshold, curated[2])
    problem = "captions.csv, line 3: start 'x' and end '2' are not two numbers"
    bad = Caption("bad", problem=problem, others={"licence": "cc"})
    for others in ([], [Caption("whole")]):
        rows, _ = decide({"plain.mp4": outcome}, {"plain.mp4": [bad, *others]}, CONFIG)
        verdicts = [(row["captions"], row["reason"]) for row in rows]
        assert verdicts == [*[(["whole"], "") for _ in others], (["bad"], "bad_span")]
        assert rows[-1]["detail"] == f"{bad.problem}."
        # One value for each caption of the row.
        assert [row["licence"] for row in rows] == [*([""] for _ in others), ["cc"]]


def test_no_row_of_captions_is_lost_or_counted_twice(tmp_path):
    rows = [
        ("a.mp4", "a dog", "", ""), ("./a.mp4", "a  dog", "", ""), ("a.mp4", "a dog", "0", "1"),
        ("missing.mp4", "", "", ""), ("a.mp4", "", "", ""),
    ]  # fmt: skip
    captions = read_captions(write_captions(tmp_path / "captions.csv", rows))
    assert captions == {
        "a.mp4": [Caption("a dog"), Caption("a dog", (Fraction(0), Fraction(1)))],
        "missing.mp4": [],
    }
    row = decide({}, {"missing.mp4": []}, CONFIG)[0][0]
    assert (row["video"], row["reason"]) == ("missing.mp4", "caption_without_video")
    write_captions(tmp_path / "captions.csv", [("a.mp4", "x", "", ""), ("", "a dog", "", "")])
    with pytest.raises(DataError, match="line 3: no video"):
        read_captions(tmp_path / "captions.csv")
    (tmp_path / "captions.csv").write_text("video,caption\na.mp4,a dog\nb.mp4,a\0cat\n")
    with pytest.raises(DataError, match="line 3: holds a NUL"):
        read_captions(tmp_path / "captions.csv")


def test_captions_files_with_problems_are_named(tmp_path):
    path = tmp_path / "captions.csv"
    with pytest.raises(DataError, match="no such file"):
        read_captions(path)
    path.write_text("video,text\na.mp4,b\n")
    with pytest.raises(DataError, match=r"no column 'caption'.*found: video, text"):
        read_captions(path)
    path.write_bytes(b"video,caption\na.mp4,\xff\xfe\n")
    with pytest.raises(DataError, match=r"captions\.csv, line 2: .*UTF-8"):
        read_captions(path)
    path.write_text("video,caption\na.mp4,a cat, of ink\n")
    with pytest.raises(DataError, match=r"captions\.csv, line 2: 3 cells for 2 columns"):
        read_captions(path)
    path.write_text(
        "Video, Caption,start,end\n./a.mp4,  two   words ,,\na.mp4,,1,2\nb.mp4,c,2,1\n,,,\nb.mp4,e,1,2\n"
    )
    captions = read_captions(path)
    assert captions["a.mp4"] == [Caption("two words")]
    assert (
        captions["b.mp4"][0].problem
        == "captions.csv, line 4: start 2 is not below end 1, or is negative"
    )
    assert captions["b.mp4"][1].span == (1.0, 2.0)


def run_stage(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LUMIERE_TRACKING": "off"}
    command = [sys.executable, "-m", f"stages.{name}", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_stage_ends_in_one_clear_line_where_nothing_is_usable(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mp4").write_bytes(b"nothing")
    write_captions(tmp_path / "captions.csv", [("a.mp4", "a", "", "")])
    (tmp_path / "params.yaml").write_text("curate: {workers: 1}\n")
    outputs = (
        "--out",
        tmp_path / "m.parquet",
        "--report",
        tmp_path / "r",
        "--metrics",
        tmp_path / "m.json",
    )
    inputs = (
        "--params",
        tmp_path / "params.yaml",
        "--raw",
        tmp_path / "raw",
        "--captions",
        tmp_path / "captions.csv",
    )
    command = ["stages.curate", *map(str, (*inputs, *outputs, "--scratch", tmp_path / "scratch"))]
    started = forked.start(command, tmp_path / "said.txt", ROOT, {"LUMIERE_TRACKING": "off"})
    said = started.wait(expected=1)
    last = said.strip().splitlines()[-1]
    assert (
        last.startswith("error: ")
        and "no usable video among 1 file (" in last
        and "unreadable" in last
    )
    assert "Traceback" not in said
    assert not (tmp_path / "m.parquet").exists()


def test_both_stages_run_from_the_command_line(many, tmp_path):
    raw, rows = many
    params = "decode: {size: 32, clips_per_shard: 4, workers: 2}\n"
    params += "prepare_t2i: {size: 16}\ntrain_ssr: {size: 32, low_size: 16, crop: 16}\n"
    (tmp_path / "params.yaml").write_text(params)
    rows = [row | {"licence": [f"CC {row['video']}", ""]} for row in rows]
    write_manifest(tmp_path / "manifest.parquet", rows)
    arguments = (
        "--params",
        tmp_path / "params.yaml",
        "--manifest",
        tmp_path / "manifest.parquet",
        "--raw",
        raw,
    )
    result = run_stage(
        "decode", *arguments, "--out", tmp_path / "clips", "--scratch", tmp_path / "scratch"
    )
    assert result.returncode == 0, result.stderr
    clip = ClipStore(tmp_path / "clips")[0]
    assert clip.frames.shape == (16, 32, 32, 3)
    assert clip.prompt_embeds.shape == (2, 32, 384)
    assert clip.prompt_embeds.dtype == np.float16
    assert not (tmp_path / "scratch").exists()
    with tarfile.open(tmp_path / "clips" / "train-00000.tar") as tar:
        info = json.loads(tar.extractfile("000000.json").read())
    assert info["others"] == {"licence": ["CC v00.mp4", ""]}  # of other columns of captions.csv


def test_too_long_windows_are_a_mistake_in_the_params(many, tmp_path, monkeypatch):
    from stages import decode

    write_manifest(tmp_path / "manifest.parquet", many[1])
    (tmp_path / "raw").mkdir()
    (tmp_path / "params.yaml").write_text("decode: {num_frames: 80}\n")
    arguments = [
        "--params",
        "params.yaml",
        "--manifest",
        "manifest.parquet",
        "--raw",
        "raw",
        "--out",
        "clips",
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["decode", *arguments])
    with pytest.raises(
        ParamsError, match=r"decode.num_frames: 80 .* allowed: at most curate.min_seconds"
    ):
        decode.main()


@pytest.mark.parametrize(
    "split, expected",
    [
        ("", r"manifest\.parquet: no clip was accepted; the report of the curate stage"),
        ("validation", r"raw: all 2 clips are held out.*lower curate\.validation_fraction"),
    ],
)
def test_a_manifest_without_a_clip_to_train_on_is_named(
    split: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages import decode

    names = ("a", "b") if split else ()
    changes = {
        "verdict": "accepted",
        "split": split,
        "exact_start": "0",
        "exact_end": "9",
        "end": 9.0,
    }
    changes |= {"captions": ["a"], "decoder": "pyav", "sha256": "0" * 64}
    changes |= {"video": "a.mp4", "width": 64, "height": 64, "duration": 9.0}
    write_manifest(
        tmp_path / "manifest.parquet", [empty_row() | changes | {"clip_id": name} for name in names]
    )
    (tmp_path / "raw").mkdir()
    (tmp_path / "params.yaml").write_text("{}\n")
    files = {name: tmp_path / name for name in names}
    monkeypatch.setattr("lumiere.data.prepare.cut_all", lambda *_: (files, {}))
    monkeypatch.chdir(tmp_path)
    paths = ["--manifest", "manifest.parquet", "--raw", "raw", "--out", "clips"]
    monkeypatch.setattr(sys, "argv", ["decode", *paths])
    with pytest.raises(DataError, match=expected):
        decode.main()
    assert not (tmp_path / "clips").exists()

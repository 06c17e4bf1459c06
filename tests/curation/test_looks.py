"""Models look at the right frames of the right clips, once, and the manifest says what is theirs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lumiere.compat  # noqa: F401  before transformers
from lumiere.config import CurateConfig, load_params
from lumiere.curation.captioning.captioner import TransformersCaptioner
from lumiere.curation.clip_frames import clip_frames
from lumiere.curation.clip_models import ClipModels
from lumiere.curation.curate import curate
from lumiere.curation.html_report import write_page
from lumiere.curation.manifest import read_manifest, write_manifest
from lumiere.curation.manifest_report import counts, write_report
from lumiere.data.workers import Failure
from lumiere.errors import DataError, FetchError, ParamsError
from tests.conftest import REPOSITORY
from tests.curation import tiny_models
from tests.curation.test_curate_and_decode import two_shots, write_captions
from tests.video_factory import encode, numbered, read_numbers

CONFIG = CurateConfig(timeout_s=20.0, workers=2, min_side=48, min_seconds=0.9)
CAPTIONED = {"alone", "bare", "cuts#1"}


def here(function, tasks, *limits) -> Iterator[tuple[int, Any]]:
    """Run tasks in this process, which starts at once."""
    for index, task in enumerate(tasks):
        yield index, function(*task)


def backwards(function, tasks, *limits) -> Iterator[tuple[int, Any]]:
    """Run tasks as another engine may: the last one comes first."""
    yield from reversed(list(here(function, tasks)))


class Reader:
    """A stand-in that says which frames it saw, and counts its calls."""

    name, identity = "reader", "reader"

    def __init__(self, says_nothing_of: tuple[int, ...] = ()) -> None:
        self.calls, self.says_nothing_of = 0, says_nothing_of

    def caption(self, frames: np.ndarray) -> str:
        self.calls += 1
        numbers = read_numbers(frames)
        if numbers[0] in self.says_nothing_of:
            return ""
        return "frames " + " ".join(map(str, numbers))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Videos with and without captions; one has a described shot and one that nobody describes."""
    folder = tmp_path_factory.mktemp("looks")
    raw = folder / "raw"
    encode(raw / "told.mp4", numbered(32, 1))
    encode(raw / "alone.mp4", numbered(32, 2))
    encode(raw / "bare.mp4", numbered(40, 3), 20)
    encode(raw / "brief.mp4", numbered(8, 4))
    encode(raw / "cuts.mp4", np.concatenate([two_shots()[:24], numbered(24, 10, first=40)]))
    encode(raw / "several.mp4", np.concatenate([numbered(20, 5), numbered(20, 16, first=30)]))
    rows = [
        ("told.mp4", "a person wrote this", "", ""),
        ("cuts.mp4", "the first shot", "0", "1.5"),
        ("several.mp4", "two things one after the other", "", ""),
    ]
    return raw, write_captions(folder / "captions.csv", rows)


@pytest.fixture(scope="module")
def captioned(inputs, tmp_path_factory):
    """Curate with a captioner; return the rows, the pictures, the reader and the scratch folder."""
    scratch, reader = tmp_path_factory.mktemp("scratch"), Reader()
    rows, pictures = curate(*inputs, CONFIG, scratch, models=ClipModels(reader))
    return {row["clip_id"]: row for row in rows}, pictures, reader, scratch


def manifest_of(folder: Path, rows) -> bytes:
    write_manifest(folder / "manifest.parquet", list(rows))
    return (folder / "manifest.parquet").read_bytes()


def test_clips_without_a_caption_get_one_and_the_others_keep_theirs(captioned):
    rows, _, reader, _ = captioned
    by_model = {clip_id for clip_id, row in rows.items() if row["captioner"]}
    assert by_model == CAPTIONED
    assert {rows[clip_id]["captioner"] for clip_id in by_model} == {"reader"}
    assert all(rows[clip_id]["verdict"] == "accepted" for clip_id in by_model)
    assert rows["told"]["captions"] == ["a person wrote this"]
    assert rows["cuts#0"]["captions"] == ["the first shot"]
    # 1/8, 3/8, 5/8 and 7/8 of 32 frames at 16 fps; of 32 ticks of 40 frames at 20 fps; of a shot.
    assert rows["alone"]["captions"] == ["frames 4 12 20 28"]
    assert rows["bare"]["captions"] == ["frames 5 15 25 35"]
    assert rows["cuts#1"]["captions"] == ["frames 43 49 55 61"]
    # What a threshold rejects is not described, and says so.
    assert rows["brief"]["reason"] == "too_short" and rows["brief"]["captions"] == []
    assert reader.calls == len(CAPTIONED)
    assert {rows[f"several#{i}"]["reason"] for i in (0, 1)} == {"caption_spans_cuts"}


def test_what_a_threshold_of_pictures_rejects_is_not_described(inputs, captioned):
    reader, config = Reader(), dataclasses.replace(CONFIG, captioner="reader", min_sharpness=1e9)
    with pytest.raises(DataError, match="5 x blurred"):
        curate(*inputs, config, captioned[3] / "new", run=here, models=ClipModels(reader))
    assert reader.calls == 0


def test_the_shots_of_a_video_with_one_caption_are_described_if_asked_for(inputs, captioned):
    scratch = captioned[3]
    reader, config = (
        Reader(),
        dataclasses.replace(CONFIG, captioner="reader", captioner_for="shots"),
    )
    rows, _ = curate(*inputs, config, scratch, run=here, models=ClipModels(reader))
    found = {row["clip_id"]: row["captions"] for row in rows if row["captioner"]}
    assert set(found) == {*CAPTIONED, "several#0", "several#1"}
    assert found["several#0"] == ["frames 2 7 12 17"] and found["several#1"][0].startswith(
        "frames 32"
    )
    assert reader.calls == 2  # the others are known


def test_the_other_columns_of_a_described_shot_stay_where_its_captions_agree(tmp_path):
    raw, config = (
        tmp_path / "raw",
        dataclasses.replace(CONFIG, captioner="reader", captioner_for="shots"),
    )
    encode(raw / "several.mp4", np.concatenate([numbered(20, 5), numbered(20, 16, first=30)]))
    encode(raw / "told.mp4", numbered(32, 1))
    table = tmp_path / "captions.csv"
    table.write_text(
        "video,caption,licence,author\n"
        "several.mp4,two things,CC0,Ann\nseveral.mp4,one and another,CC0,Bob\n"
        "told.mp4,a person wrote this,,\n"
    )
    models = ClipModels(Reader(says_nothing_of=(2,)))
    rows, _ = curate(raw, table, config, tmp_path / "scratch", run=here, models=models)
    found = {row["clip_id"]: row for row in rows}
    described, silent = found["several#1"], found["several#0"]
    assert described["captions"][0].startswith("frames") and described["verdict"] == "accepted"
    assert (described["licence"], described["author"]) == (["CC0"], [""])
    assert (silent["reason"], silent["licence"]) == ("caption_spans_cuts", ["CC0"] * 2)
    assert silent["captions"] == ["two things", "one and another"] and silent["captioner"] == ""


def test_answers_are_kept_and_a_killed_run_resumes_with_the_same_bytes(
    inputs, captioned, tmp_path, monkeypatch
):
    rows, _, _, scratch = captioned
    expected = manifest_of(tmp_path, rows.values())
    reader = Reader()
    again, _ = curate(*inputs, CONFIG, scratch, run=here, models=ClipModels(reader))
    assert (reader.calls, manifest_of(tmp_path, again)) == (0, expected)
    assert read_manifest(tmp_path / "manifest.parquet") == again

    killed = Reader()
    with monkeypatch.context() as patches:
        answers = iter([killed.caption])
        patches.setattr(killed, "caption", lambda frames: next(answers)(frames))
        with pytest.raises(StopIteration):
            curate(*inputs, CONFIG, tmp_path / "killed", run=here, models=ClipModels(killed))
    resumed = Reader()
    config = dataclasses.replace(CONFIG, workers=1)
    after, _ = curate(*inputs, config, tmp_path / "killed", models=ClipModels(resumed))
    assert (resumed.calls, manifest_of(tmp_path, after)) == (2, expected)


def test_other_moments_of_a_clip_are_looked_at_again(inputs, captioned, monkeypatch):
    monkeypatch.setattr("lumiere.curation.looks.SAMPLE_FPS", 8)
    reader = Reader()
    curate(*inputs, CONFIG, captioned[3], run=here, models=ClipModels(reader))
    assert reader.calls == len(CAPTIONED)


def test_the_order_in_which_clips_are_decoded_does_not_matter(inputs, captioned, tmp_path):
    model = TransformersCaptioner(str(tiny_models.llava(tmp_path / "model")))
    found = []
    for run in (here, backwards):
        scratch = tmp_path / run.__name__
        rows, _ = curate(*inputs, CONFIG, scratch, run=run, models=ClipModels(model))
        found.append(manifest_of(tmp_path, rows))
        assert all(row["captioner"] == model.name for row in rows if row["clip_id"] in CAPTIONED)
    assert found[0] == found[1]


def stripes(subject: int) -> np.ndarray:
    """uint8 (20, 64, 96, 3): a disc that moves over stripes, which have another angle, width and
    colour for each subject.
    """
    y, x = np.mgrid[:64, :96]
    angle, width = subject * np.pi / 8, 3 + subject
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * np.pi / width)
    color = np.random.default_rng(subject).uniform(20, 110, 3)
    frames = np.repeat((120 + wave[..., None] * color).astype(np.uint8)[None], 20, axis=0)
    for number, frame in enumerate(frames):
        frame[(x - 20 - 3 * number) ** 2 + (y - 32) ** 2 < 100] = color
    return frames


def test_a_clip_keeps_its_side_of_the_split_whatever_the_captioner(tmp_path, monkeypatch):
    """Names decide the split: not what a model says, and not that it says something."""
    raw, names = tmp_path / "raw", [f"video{subject}" for subject in range(8)]
    for subject, name in enumerate(names):
        encode(raw / f"{name}.mp4", stripes(subject))
    rows = [(f"{name}.mp4", "a person wrote this", "", "") for name in names[:4]]
    table, model = write_captions(tmp_path / "captions.csv", rows), Reader()
    monkeypatch.setattr(model, "caption", lambda frames: "a model wrote this")
    for seed in range(4, 9):  # none holds out all of the first four: no bound counts
        config = dataclasses.replace(CONFIG, seed=seed, validation_fraction=0.5)
        sides = []
        for models in (ClipModels(), ClipModels(model)):
            found, _ = curate(raw, table, config, tmp_path / "scratch", run=here, models=models)
            assert len({row["group"] for row in found if row["split"]}) >= 3  # few look alike
            sides.append({row["clip_id"]: row["split"] for row in found if row["split"]})
        without, with_model = sides
        assert (set(without), set(with_model)) == (set(names[:4]), set(names))
        trained = {clip_id for clip_id, side in without.items() if side == "train"}
        held_out = {clip_id for clip_id, side in with_model.items() if side == "validation"}
        assert trained and held_out and not trained & held_out


def test_without_a_captioner_the_manifest_is_as_before(inputs, captioned, tmp_path):
    plain = curate(*inputs, CONFIG, captioned[3], run=here)[0]
    none = curate(*inputs, CONFIG, captioned[3], run=here, models=ClipModels())[0]
    assert manifest_of(tmp_path, plain) == manifest_of(tmp_path, none)
    assert "captioner" not in plain[0] and "captioned" not in counts(plain)
    assert {row["reason"] for row in plain if row["clip_id"] in CAPTIONED} == {"no_caption"}


def test_a_captioner_that_says_nothing_leaves_a_clip_without_a_caption(inputs, tmp_path):
    models = ClipModels(Reader(says_nothing_of=(4,)))
    rows, _ = curate(*inputs, CONFIG, tmp_path, run=here, models=models)
    row = next(row for row in rows if row["clip_id"] == "alone")
    assert (row["reason"], row["captioner"], row["captions"]) == ("no_caption", "", [])
    assert row["detail"] == "The captioner wrote nothing for it."


def test_a_persons_caption_survives_a_larger_duplicate_that_a_model_describes(
    tmp_path, monkeypatch
):
    raw = tmp_path / "raw"
    large = np.repeat(np.repeat(numbered(32, 6), 2, axis=1), 2, axis=2)
    encode(raw / "large.mp4", large)
    encode(raw / "small.mp4", numbered(32, 6))
    encode(raw / "other.mp4", numbered(32, 7))
    rows = [("small.mp4", "a person wrote this", "", ""), ("other.mp4", "and this", "", "")]
    captions = write_captions(tmp_path / "captions.csv", rows)
    model = Reader()
    monkeypatch.setattr(model, "caption", lambda frames: "a model wrote this")
    scratch = tmp_path / "scratch"
    found, _ = curate(raw, captions, CONFIG, scratch, run=here, models=ClipModels(model))
    verdicts = {row["clip_id"]: row["detail"] for row in found}
    assert verdicts == {"small": "", "other": "", "large": "duplicate_of:small.mp4"}


def test_the_report_shows_whose_captions_they_are(captioned, tmp_path):
    rows, pictures, _, _ = captioned
    content = list(rows.values())
    assert counts(content)["captioned"] == len(CAPTIONED)
    write_report(tmp_path, content, pictures, CONFIG.min_motion)
    page = (tmp_path / "report.md").read_text()
    assert "3 accepted clips have their captions from `reader`." in page
    write_page(tmp_path / "report.html", content, pictures, CONFIG)
    page = (tmp_path / "report.html").read_text()
    assert page.count("caption by reader") >= len(CAPTIONED) and "described by a model" in page


def test_a_video_that_cannot_be_read_again_is_named(inputs, tmp_path):
    def failing(function, tasks, *limits):
        for index, outcome in here(function, tasks):
            is_look = function is clip_frames and tasks[index][1] == "bare.mp4"
            yield index, failure if is_look else outcome

    failure = Failure("timeout", "no progress for 20 s")
    scratch = tmp_path / "scratch"
    rows, _ = curate(*inputs, CONFIG, scratch, run=failing, models=ClipModels(Reader()))
    reasons = {row["clip_id"]: row["reason"] for row in rows}
    assert reasons["bare"] == "timeout" and reasons["alone"] == ""
    failure = Failure("error", "gone", FetchError("bare.mp4: cannot be fetched: gone"))
    with pytest.raises(DataError, match=r"^bare\.mp4: cannot be fetched"):
        curate(*inputs, CONFIG, scratch, run=failing, models=ClipModels(Reader()))


def test_large_pictures_are_shrunk_in_their_proportions(tmp_path):
    frames = np.repeat(np.repeat(numbered(16, 8), 8, axis=1), 8, axis=2)
    encode(tmp_path / "large.mp4", frames)
    (seen,) = clip_frames(tmp_path, "large.mp4", [(Fraction(0), Fraction(1))], [None])
    height, width = frames.shape[1:3]
    assert seen.shape == (4, 384, round(384 * width / height), 3)
    (part,) = clip_frames(tmp_path, "large.mp4", [(Fraction(0), Fraction(1))], [(0, 0, 40, 20)])
    assert part.shape == (4, 20, 40, 3)
    start, end = Fraction(1, 2), Fraction(9, 16)  # one tick
    (short, whole) = clip_frames(
        tmp_path, "large.mp4", [(start, end), (Fraction(0), Fraction(1))], [None, None]
    )
    assert short.shape == whole.shape and (short == short[:1]).all()


def test_a_stage_names_the_key_of_a_captioner_that_cannot_be_used(tmp_path):
    from stages.curate import load_models

    params = REPOSITORY / "params.yaml"
    config = load_params(params).curate
    assert not load_models(params, config)
    with pytest.raises(ParamsError, match=r"params\.yaml: curate\.captioner: .*no such folder"):
        load_models(params, dataclasses.replace(config, captioner="/no/such/folder"))

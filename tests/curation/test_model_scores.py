"""Scores that models give are columns, and thresholds are compared later without asking again."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import lumiere.compat  # noqa: F401  before open_clip
from lumiere.config import CurateConfig, load_params
from lumiere.curation.clip_frames import (
    MOST_FRAMES,
    NUM_FRAMES,
    clip_frames,
    frames_to_follow,
    sparse,
)
from lumiere.curation.clip_models import ClipModels, Scores, TextAreas, check_head, covered
from lumiere.curation.curate import curate
from lumiere.curation.html_report import write_page
from lumiere.curation.manifest import open_manifest, read_manifest, write_manifest
from lumiere.curation.manifest_report import counts, funnel
from lumiere.curation.text_area import RapidOCRReader
from lumiere.curation.thresholds import bad_score
from lumiere.data.extract import load_windows
from lumiere.data.prepare import COLUMNS, cut_all
from lumiere.data.window_choice import WindowSettings
from lumiere.errors import DataError, ParamsError
from lumiere.evaluation.backbones import load_aesthetic_head
from lumiere.evaluation.backbones.open_clip_image import OpenCLIPBackbone
from lumiere.evaluation.temporal.consistency import aesthetic_quality
from tests.conftest import REPOSITORY
from tests.curation.test_curate_and_decode import write_captions
from tests.curation.test_looks import here
from tests.curation.test_sliders import embedded, promised
from tests.tiny_open_clip import EMBED_DIM, save_weights
from tests.video_factory import encode, numbered

CONFIG = CurateConfig(timeout_s=20.0, workers=2, min_side=48, min_seconds=0.9)
NAMES = ("dark", "light", "middle", "untold")


class Network:
    """A stand-in that knows how bright pictures are, and what "dark" and "light" mean."""

    identity = "brightness"

    def __init__(self) -> None:
        self.calls = 0

    def embed(self, frames: np.ndarray) -> np.ndarray:
        self.calls += 1
        light = frames.mean(axis=(1, 2, 3)) / 255
        return 7 * np.stack([light, 1 - light], axis=1).astype(np.float32)

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return np.array([[3.0, 0.0] if "light" in text else [0.0, 3.0] for text in texts])


@dataclasses.dataclass(frozen=True)
class Head:
    """Likes light pictures."""

    weight: np.ndarray
    bias: float


class Reader:
    """A stand-in that finds text in the upper half of light pictures, twice."""

    identity = "reader"

    def boxes(self, picture: np.ndarray) -> Sequence[np.ndarray]:
        height, width = picture.shape[:2]
        right, bottom = width - 1, height // 2 - 1
        box = np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]])
        return [box, box[::-1]] if picture.mean() > 150 else []


def models() -> ClipModels:
    return ClipModels(None, Network(), Head(np.array([9.0, 1.0]), 0.5), Reader())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("scores")
    frames = numbered(20, 1).astype(int)
    encode(folder / "raw" / "dark.mp4", (frames // 4).astype(np.uint8))
    encode(folder / "raw" / "light.mp4", (255 - numbered(20, 2) // 4).astype(np.uint8))
    encode(folder / "raw" / "middle.mp4", (60 + numbered(20, 3) // 2).astype(np.uint8))
    encode(folder / "raw" / "untold.mp4", numbered(20, 4))
    (folder / "raw" / "empty.mp4").touch()
    rows = [
        ("dark.mp4", "a dark picture", "", ""),
        ("light.mp4", "a light picture", "", ""),
        ("light.mp4", "a dark picture", "", ""),
        ("middle.mp4", "a light picture", "", ""),
        ("empty.mp4", "nothing", "", ""),
    ]
    return folder / "raw", write_captions(folder / "captions.csv", rows)


@pytest.fixture(scope="module")
def scored(inputs, tmp_path_factory) -> tuple[dict[str, dict[str, Any]], Any, Path]:
    scratch = tmp_path_factory.mktemp("scratch")
    rows, pictures = curate(*inputs, CONFIG, scratch, models=models())
    return {row["clip_id"]: row for row in rows}, pictures, scratch


def test_scores_are_columns_beside_the_others(scored, tmp_path):
    rows = scored[0]
    assert {row["verdict"] for name, row in rows.items() if name in NAMES[:3]} == {"accepted"}
    assert rows["dark"]["caption_match"] > 0.9
    assert rows["light"]["caption_match"] < 0.4  # of two captions the one that fits worst counts
    assert rows["untold"]["caption_match"] == 0.0 and rows["untold"]["aesthetic"] > 1
    assert rows["light"]["aesthetic"] > rows["middle"]["aesthetic"] > rows["dark"]["aesthetic"]
    assert rows["light"]["text_area"] == pytest.approx(0.5, abs=0.01)
    assert rows["dark"]["text_area"] == 0.0
    unread = rows["empty"]
    assert (unread["aesthetic"], unread["caption_match"], unread["text_area"]) == (0, 0, 0)
    write_manifest(tmp_path / "m.parquet", list(rows.values()))
    assert read_manifest(tmp_path / "m.parquet") == list(rows.values())


def test_windows_show_what_the_caption_says(tmp_path):
    height, width = np.mgrid[:64, :96]
    # A pattern that always moves; the picture is light from second 3 to 4.5 of six alone.
    seconds = np.arange(96) / 16
    light = 130 * np.exp(-(((seconds - 3.75) / 0.75) ** 4))
    pattern = 25 * np.sin((height + width + 3 * np.arange(96)[:, None, None]) / 4)
    frames = (50 + light[:, None, None] + pattern).astype(np.uint8)
    encode(tmp_path / "raw" / "door.mp4", np.repeat(frames[..., None], 3, axis=3), fps=16)
    table = write_captions(tmp_path / "captions.csv", [("door.mp4", "a light picture", "", "")])
    rows, _ = curate(tmp_path / "raw", table, CONFIG, tmp_path / "a", models=models())
    (curve,) = (row["match_curve"] for row in rows)
    assert len(curve) == 12 and 6 <= int(np.argmax(curve)) <= 8  # two a second
    assert max(curve) - min(curve) > 0.3
    write_manifest(tmp_path / "m.parquet", rows)
    rows = open_manifest(tmp_path / "m.parquet", COLUMNS, "accepted")
    assert list(rows[0]["match_curve"]) == curve
    for drop, expected in ((0.1, range(40, 65)), (2.0, [0, 80])):
        settings = WindowSettings(16, 16, 32, 2, 0.03, drop)
        (file,) = cut_all(rows, tmp_path / "raw", settings, 1, 60, tmp_path / "b")[0].values()
        starts = [round(start * 16) for start in load_windows(file).starts]
        assert starts and set(starts) <= set(expected), drop


def test_more_pictures_of_a_long_clip_hold_those_that_other_models_see(tmp_path):
    encode(tmp_path / "a.mp4", numbered(140, 1))
    spans = [(Fraction(1, 3), Fraction(end)) for end in ("0.5", "2.5", "4", "8.7")]
    counts = [frames_to_follow(span) for span in spans]
    assert counts == [4, 12, 12, 20]
    few = clip_frames(tmp_path, "a.mp4", spans, [None] * 4)
    many = clip_frames(tmp_path, "a.mp4", spans, [None] * 4, counts=counts)
    for some, frames, count in zip(few, many, counts, strict=True):
        assert len(frames) == count and len(some) == NUM_FRAMES
        assert np.array_equal(sparse(frames), some)
    assert frames_to_follow((Fraction(0), Fraction(900))) == MOST_FRAMES


def test_a_cell_that_is_no_number_is_named(scored, tmp_path):
    rows = [dict(row) for row in scored[0].values()]
    rows[0]["text_area"] = float("nan")
    write_manifest(tmp_path / "m.parquet", rows)
    with pytest.raises(DataError, match=r"row 1 \(dark\): text_area is nan; expected a number"):
        read_manifest(tmp_path / "m.parquet")


CHANGES = [
    {"min_aesthetic": 4.0}, {"min_caption_match": 0.5}, {"max_text_area": 0.4},
    {"max_text_area": 0.6}, {"min_aesthetic": 4.0, "max_text_area": 0.4, "min_motion": 0.0},
]  # fmt: skip
REASONS = {
    "min_aesthetic": "low_aesthetic", "min_caption_match": "caption_mismatch",
    "max_text_area": "too_much_text",
}  # fmt: skip


@pytest.fixture(scope="module")
def config() -> CurateConfig:
    """The params name models, so that thresholds are allowed."""
    named = {"clip_model": "x/y.safetensors", "aesthetic_head": "z.pth", "text_reader": "rapidocr"}
    return dataclasses.replace(CONFIG, **named)


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_threshold_is_compared_later_and_the_slider_promises_the_same(
    inputs, scored, config, tmp_path, changes
):
    rows, pictures, scratch = scored
    again = models()
    found, _ = curate(
        *inputs, dataclasses.replace(config, **changes), scratch, run=here, models=again
    )
    assert again.network is not None and again.network.calls == 0
    kept = {row["clip_id"] for row in found if row["verdict"] == "accepted"}
    write_page(tmp_path / "report.html", list(rows.values()), pictures, config)
    scores, limits = embedded((tmp_path / "report.html").read_text())
    before = promised(scores, limits)
    assert before == {"dark", "light", "middle"}  # what is off drops nothing
    for key, value in changes.items():
        limits[f"curate.{key}"]["limit"] = float(value)
    assert promised(scores, limits) == kept
    assert (kept != before) == (changes != {"max_text_area": 0.6})
    dropped = [row for row in found if row["clip_id"] in before - kept]
    assert {row["reason"] for row in dropped} <= {REASONS.get(key) for key in changes}
    for row in dropped:
        key = next(key for key, reason in REASONS.items() if reason == row["reason"])
        assert f"curate.{key} is {changes[key]:g}" in row["detail"]
    left = dict(funnel(found))
    assert left["moves"] - left["reaches the models' scores"] == len(dropped)


def test_the_page_draws_the_scores_and_a_line_only_at_a_threshold(scored, config, tmp_path):
    rows, pictures, _ = scored
    for limit, lines in ((0.0, 3), (2.0, 4)):
        changed = dataclasses.replace(config, min_aesthetic=limit)
        write_page(tmp_path / "report.html", list(rows.values()), pictures, changed)
        page = (tmp_path / "report.html").read_text()
        assert len(re.findall(r'<line [^>]*stroke-dasharray="5 3"', page)) == lines
        for title in ("aesthetic score", "fit of the caption", "share under text"):
            assert f"<h3>{title}" in page
    assert ", aesthetic " in page and ", text_area 0.5" in page


def test_results_depend_on_neither_workers_nor_order(inputs, scored, tmp_path):
    def backwards(function, tasks, *limits) -> Iterator[tuple[int, Any]]:
        yield from reversed(list(here(function, tasks)))

    rows, _ = curate(*inputs, CONFIG, tmp_path / "scratch", run=backwards, models=models())
    for name, content in (("a", scored[0].values()), ("b", rows)):
        write_manifest(tmp_path / name, list(content))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_scores_are_kept_by_model_whatever_the_length_of_its_vectors(tmp_path):
    class Wide(Network):
        identity = "wide"

        def embed(self, frames: np.ndarray) -> np.ndarray:
            return np.repeat(super().embed(frames), 2, axis=1)

    frames = np.full((4, 8, 8, 3), 200, np.uint8)
    for network in (Network(), Wide()):
        scores = Scores(network, None, tmp_path)
        assert not scores.knows("clip")
        scores.ask("clip", frames)
        scores.save()
    for network in (Network(), Wide()):
        assert Scores(network, None, tmp_path).knows("clip")


def test_text_areas_are_measured_again_by_other_code(tmp_path, monkeypatch):
    areas = TextAreas(Reader(), tmp_path)
    areas.ask("clip", np.full((4, 8, 8, 3), 200, np.uint8))
    areas.save()
    assert TextAreas(Reader(), tmp_path).knows("clip")
    monkeypatch.setattr("lumiere.curation.clip_models.code_version", lambda *_: {"code": "other"})
    assert not TextAreas(Reader(), tmp_path).knows("clip")


def test_without_models_there_are_no_columns(inputs, scored):
    rows, _ = curate(*inputs, CONFIG, scored[2], run=here)
    assert not {"aesthetic", "caption_match", "text_area", "captioner"} & set(rows[0])
    assert "reaches the models' scores" not in dict(funnel(rows)) and counts(rows)["accepted"] == 3


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny weights for open_clip, and a head for them."""
    folder = tmp_path_factory.mktemp("open clip")
    save_weights(folder, "tiny-curate")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = torch.nn.Linear(EMBED_DIM, 1).state_dict()
    save_file(head, folder / "head.safetensors")
    torch.save(head, folder / "head.pth")
    save_file(torch.nn.Linear(9, 1).state_dict(), folder / "wide.safetensors")
    return folder


def test_an_open_clip_model_and_its_head_give_the_scores_of_the_evaluation(
    inputs, weights, tmp_path
):
    from stages.curate import load_models

    config = dataclasses.replace(
        CONFIG,
        clip_model=f"tiny-curate/{weights}/tiny.safetensors",
        aesthetic_head=str(weights / "head.safetensors"),
    )
    found = load_models(tmp_path / "params.yaml", config)
    rows, _ = curate(*inputs, config, tmp_path / "scratch", run=here, models=found)
    row = next(row for row in rows if row["clip_id"] == "middle")
    (frames,) = clip_frames(inputs[0], "middle.mp4", [(Fraction(0), Fraction(20, 16))], [None])
    backbone = OpenCLIPBackbone(config.clip_model)
    pictures, (text,) = backbone.embed(frames), backbone.embed_texts(row["captions"])
    head = load_aesthetic_head(weights / "head.pth")
    expected = 10 * aesthetic_quality(pictures, head.weight, head.bias)
    assert row["aesthetic"] == pytest.approx(expected, abs=1e-4)
    unit = pictures / np.linalg.norm(pictures, axis=1, keepdims=True)
    assert row["caption_match"] == pytest.approx(
        (unit @ text).mean() / np.linalg.norm(text), abs=1e-4
    )


def test_weights_that_do_not_fit_are_named_with_their_key(weights, tmp_path):
    from stages.curate import load_models

    params, clip = tmp_path / "params.yaml", f"tiny-curate/{weights}/tiny.safetensors"
    allowed = r"clip_model: open_clip model 'tiny-curate': allowed: ARCHITECTURE/FILE\.safetensors, with an"
    with pytest.raises(ParamsError, match=allowed):
        load_models(params, dataclasses.replace(CONFIG, clip_model="tiny-curate"))
    with pytest.raises(ParamsError, match=r"curate\.clip_model: .*no such file of weights"):
        load_models(params, dataclasses.replace(CONFIG, clip_model="tiny-curate/no.safetensors"))
    wide = dataclasses.replace(
        CONFIG, clip_model=clip, aesthetic_head=str(weights / "wide.safetensors")
    )
    with pytest.raises(ParamsError, match=r"aesthetic_head: a head for 9 features, .* gives 8"):
        load_models(params, wide)
    check_head(load_aesthetic_head(weights / "head.pth"), OpenCLIPBackbone(clip))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_aesthetic": 5.0}, "min_aesthetic: 5.0; allowed only if aesthetic_head names"),
        ({"min_caption_match": 0.2}, "min_caption_match: 0.2; allowed only if clip_model names"),
        ({"max_text_area": 0.2}, "max_text_area: 0.2; allowed only if text_reader names"),
        ({"captioner_for": "shots"}, "captioner_for: 'shots'; allowed only if captioner names"),
        ({"aesthetic_head": "a.pth"}, "aesthetic_head: 'a.pth'; allowed only if clip_model names"),
    ],
)
def test_a_threshold_without_its_model_is_refused(changes, message):
    assert load_params(REPOSITORY / "params.yaml").curate.max_text_area == 1.0
    with pytest.raises(ParamsError, match=re.escape(message)):
        CurateConfig(**changes)


def test_a_score_that_is_no_number_reaches_no_threshold(config):
    limited = dataclasses.replace(config, min_aesthetic=4.0, max_text_area=0.4)
    assert bad_score({"aesthetic": 4.0, "text_area": 0.4}, limited) is None
    for column in ("aesthetic", "text_area"):
        assert bad_score({column: float("nan")}, limited) is not None
        assert bad_score({column: float("nan")}, config) is None


def test_pixels_under_two_boxes_count_once():
    square = np.array([[0, 0], [9, 0], [9, 9], [0, 9]])
    assert covered([square, square + 5], (20, 20)) == pytest.approx((200 - 25) / 400)
    assert covered([], (20, 20)) == 0.0
    assert covered([square * 100.0 - 50], (20, 20)) == 1.0  # a box may reach over the edge


def test_a_missing_reader_is_named_with_the_cure(monkeypatch, tmp_path):
    from stages.curate import load_models

    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    with pytest.raises(ParamsError, match=r"curate\.text_reader: .*not installed; pip install -e"):
        load_models(tmp_path, dataclasses.replace(CONFIG, text_reader="rapidocr"))


def test_rapidocr_finds_where_text_is():
    pytest.importorskip("rapidocr_onnxruntime", reason="needs the extra ocr")
    import cv2

    reader, picture = RapidOCRReader(), np.full((384, 640, 3), 90, np.uint8)
    assert reader.boxes(picture) == []
    white = (255, 255, 255)
    cv2.putText(picture, "HELLO WORLD", (100, 200), cv2.FONT_HERSHEY_SIMPLEX, 2, white, 4)
    (box,) = reader.boxes(picture)
    assert 80 < box[:, 0].min() < 120 and 470 < box[:, 0].max() < 520
    assert 0.04 < covered([box], (384, 640)) < 0.12
    assert RapidOCRReader().identity == reader.identity

"""The sliders of the curation page promise what the stage then does, by the data in the page."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumiere.config import CurateConfig
from lumiere.curation.captions import Caption
from lumiere.curation.html_report import write_page
from lumiere.curation.measurement import Measurement, Segment
from lumiere.curation.page_style import SCRIPT
from lumiere.curation.probe import Probe
from lumiere.curation.verdicts import decide

CONFIG = CurateConfig(min_motion=0.1234567, min_seconds=1.0, min_side=64)
MOTIONS = (0.0, 0.05, 0.1234567, 0.1234568, 0.3, 2.5)
SECONDS = (Fraction(1, 2), Fraction(99_996, 100_000), Fraction(1), Fraction(3, 2), Fraction(10, 3))
SIDES = (32, 64, 63, 128)
SHARPNESS = (0.0, 3.25, 40.0)
DARKEST = (0, 16, 40)  # rows of 64 that are black


def measurement(number: int, motion: float, seconds: Fraction, side: int) -> Measurement:
    """Return the measurement of a video of its own pictures."""
    facts = Probe("h264", "mov", 2 * side, side, 25.0, None, 0.0, "pyav", "")
    picture = np.random.default_rng(number).integers(40, 240, (1, 4, 64, 64, 3), np.uint8)
    picture[:, :, : DARKEST[number % 5 % 3]] = 10 + number % 20
    picture[:, :, 64 - DARKEST[number % 7 % 3] // 2 :] = 250
    blur = SHARPNESS[number % 3]
    return Measurement(
        sha256=f"{number:064x}", num_bytes=1000, probe=facts, width=2 * side, height=side,
        duration=seconds, shots=((Fraction(0), seconds),),
        segments=(Segment(Fraction(0), seconds, None, motion, blur),), signatures=picture,
    )  # fmt: skip


@pytest.fixture(scope="module")
def inputs() -> tuple[dict[str, Measurement], dict[str, list[Caption]]]:
    """Return clips of all scores; every seventh lacks a caption, every eleventh has a wrong span."""
    outcomes, captions = {}, {}
    for number, scores in enumerate(itertools.product(MOTIONS, SECONDS, SIDES)):
        name = f"{number:03d}.mp4"
        outcomes[name] = measurement(number, *scores)
        bad = (Fraction(50), Fraction(60))
        span = bad if number % 11 == 0 else None
        captions[name] = [] if number % 7 == 0 else [Caption(f"number {number}", span)]
    return outcomes, captions


def embedded(page: str) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return the scores of the clips, and the thresholds with what a slider knows of them."""
    scores = json.loads(re.findall(r'id="scores">(.*?)</script>', page)[0])
    limits = {}
    for slider in re.findall(r'<input type="range"[^>]*>', page):
        facts = dict(re.findall(r'([a-z-]+)="([^"]*)"', slider))
        limits[facts["data-name"]] = {
            "key": facts["data-key"], "reason": facts["data-reason"],
            "strict": bool(facts["data-strict"]), "upper": "data-upper" in facts, "limit": float(facts["data-now"]),
        }  # fmt: skip
    return scores, limits


def promised(scores: list[dict[str, Any]], limits: dict[str, dict[str, Any]]) -> set[str]:
    """Do what the page's script does: return the clips that the thresholds let through."""

    def passes(clip: dict[str, Any], limit: dict[str, Any]) -> bool:
        value = clip[limit["key"]]
        if limit["upper"]:
            return value <= limit["limit"] + 1e-6
        return value > limit["limit"] if limit["strict"] else value >= limit["limit"] - 1e-6

    kept = set()
    for clip in scores:
        can_change = not clip.get("stays") and clip["reason"] in {
            limit["reason"] for limit in limits.values()
        }
        is_open = clip["reason"] == "" or can_change
        if is_open and all(passes(clip, limit) for limit in limits.values()):
            kept.add(clip["id"])
    return kept


def test_the_rule_is_that_of_the_script():
    """A change of the script needs the same change of `promised`."""
    for line in (
        "? (+input.value <= +input.min ? 0 : 10 ** input.value) : +input.value;",
        "const passes = (clip, l) => l.upper ? clip[l.key] <= l.limit + 1e-6",
        ": l.strict ? clip[l.key] > l.limit : clip[l.key] >= l.limit - 1e-6;",
        "const open = clip.reason === '' || !clip.stays && limits.some(l => l.reason === clip.reason);",
        "now[clip.id] = open && limits.every(l => passes(clip, l)) ? '' : 'rejected';",
        "limit: input.dataset.moved ? valueOf(input) : +input.dataset.now, input}));",
    ):
        assert line in SCRIPT


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"min_motion": 0.05}, {"min_motion": 0.0}, {"min_motion": 1.0}, {"min_seconds": 0.25},
        {"min_seconds": 1.5}, {"min_side": 16}, {"min_side": 100},
        {"min_motion": 0.01, "min_seconds": 0.5, "min_side": 32},
        {"min_sharpness": 3.25}, {"min_sharpness": 3.26}, {"max_dark_share": 0.25},
        {"max_dark_share": 0.24}, {"max_bright_share": 0.2},
        {"min_sharpness": 20.0, "max_dark_share": 0.5, "min_motion": 0.05},
    ],
    ids=str,
)  # fmt: skip
def test_a_slider_keeps_and_drops_what_the_stage_does(inputs, tmp_path: Path, changes):
    nothing_alike = {"find_look_alikes": lambda signatures: []}
    rows, pictures = decide(*inputs, CONFIG, **nothing_alike)
    write_page(tmp_path / "report.html", rows, pictures, CONFIG)
    scores, limits = embedded((tmp_path / "report.html").read_text())
    for key, value in changes.items():
        limits[f"curate.{key}"]["limit"] = float(value)
    again, _ = decide(*inputs, dataclasses.replace(CONFIG, **changes), **nothing_alike)
    really = {row["clip_id"] for row in again if row["verdict"] == "accepted"}
    assert promised(scores, limits) == really
    before = {row["clip_id"] for row in rows if row["verdict"] == "accepted"}
    assert (really != before) == bool(changes)

"""The description of a run in MLflow."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from PIL import Image

from flows.description import MAX_CHANGES, SHEET, contact_sheet, describe, log_contact_sheet
from flows.report import StageResult
from lumiere.tracking.pages import run_link

PAGE = """<section class="verdict bad"><h2>Told apart</h2><p>One&#39;s <b>first</b>.</p><p>Second.</p></section>
<section><p>Other.</p></section>"""


def results(folder: Path, **metrics: float) -> list[StageResult]:
    return [
        StageResult("train", "cached"),
        StageResult("evaluate", "ran", metrics=metrics, outputs=(folder, folder / "none.json")),
    ]


def test_a_reviewer_sees_verdict_floors_changes_and_the_way_back(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(PAGE)
    found = results(tmp_path, fid=12.3456, fid_floor=4.0, same=1.0, same_floor=1.0, count=3, new=5)
    before = {"evaluate": {"fid": 20.0, "same": 1.0, "count": 2.0}}
    text = describe(found, before, {"git_commit": "abc"})
    assert text.startswith(
        "**Told apart.** One's first. Second.\n\n**Stages**: cached: train; ran: evaluate"
    )
    table = text.replace("&emsp;", "")
    assert "| fid | 12.35 | 4 | was 20 |" in table and "| same | 1 | 1 | same |" in table
    assert "- evaluate/count: 2 → 3" in text
    assert "new" not in text and "Other." not in text
    assert "git checkout abc" in text and "lumiere reproduce RUN_ID again" in text
    assert "reproduce 123 again" in describe(found, before, {"git_commit": "abc"}, "123")
    assert "\ndvc repro\n" in text
    some = describe(found, before, {"git_commit": "abc"}, picked=["train", "evaluate"])
    assert "\ndvc repro train evaluate\n" in some


def test_a_run_without_a_report_has_a_short_description(tmp_path: Path) -> None:
    assert describe(results(tmp_path), {}, {}) == "**Stages**: cached: train; ran: evaluate"


def test_the_description_shows_a_small_contact_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[str, tuple[int, int]]] = []

    class Run:
        def log_artifact(self, path: Path) -> None:
            with Image.open(path) as picture:
                logged.append((path.name, picture.size))

    assert contact_sheet(results(tmp_path)) is None
    (tmp_path / "plots").mkdir()
    (tmp_path / "generated.png").write_bytes(b"damaged")
    assert contact_sheet(results(tmp_path)) is None
    Image.new("RGB", (1920, 600)).save(tmp_path / "generated.png")
    sheet = contact_sheet(results(tmp_path))
    assert sheet is not None
    run: Any = Run()
    assert log_contact_sheet(run, sheet)
    assert logged == [(SHEET, (640, 200))]
    with monkeypatch.context() as full:
        full.setattr(Image.Image, "save", Mock(side_effect=OSError(errno.ENOSPC, "No space left")))
        assert not log_contact_sheet(run, sheet)
    picture = f"![generated videos](get-artifact?path={SHEET}&run_uuid=123)"
    assert picture in describe(results(tmp_path), {}, {}, "123", has_sheet=True)
    for text in (
        describe(results(tmp_path), {}, {}, None, has_sheet=True),
        describe(results(tmp_path), {}, {}),
    ):
        assert "get-artifact" not in text  # MLflow has no such run, or the text is for Prefect
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert run_link(tmp_path, "123") == "http://127.0.0.1:5000/#/runs/123"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter2secret@mlflow.example.org/")
    assert run_link(tmp_path, "123") == "https://***@mlflow.example.org/#/runs/123"


def test_a_long_list_of_changes_is_cut(tmp_path: Path) -> None:
    many = {f"m{index}": float(index) for index in range(MAX_CHANGES + 3)}
    text = describe(results(tmp_path, **many), {"evaluate": dict.fromkeys(many, -1.0)}, {})
    assert text.count("- evaluate/") == MAX_CHANGES and text.endswith("- and 3 more")

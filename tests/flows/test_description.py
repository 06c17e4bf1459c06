"""The description of a run in MLflow, and the data that it lists."""

from __future__ import annotations

from pathlib import Path

from flows.description import MAX_CHANGES, data_inputs, describe, output_digests
from flows.report import StageResult

PAGE = """<section class="verdict bad"><h2>Told apart</h2><p>One&#39;s <b>first</b>.</p><p>Second.</p></section>
<section><p>Other.</p></section>"""
LOCK = """
schema: '2.0'
stages:
  a:
    deps: [{path: data/raw, md5: 12.dir}, {path: lumiere/files.py, md5: '3'}, {path: lumiere/text, md5: 4.dir}]
    outs: [{path: outputs/a, md5: '5'}]
  b:
    deps: [{path: outputs/a, md5: '5'}, {path: data/captions.csv, md5: '6'}]
    outs: [{path: outputs/b, md5: '7'}]
"""


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
    assert "| fid | 12.35 | 4 | was 20 |" in text and "| same | 1 | 1 | same |" in text
    assert "- evaluate/count: 2 → 3" in text
    assert "new" not in text and "Other." not in text
    assert "git checkout abc" in text and "lumiere reproduce RUN_ID again" in text
    assert "reproduce 123 again" in describe(found, before, {"git_commit": "abc"}, "123")


def test_a_run_without_a_report_has_a_short_description(tmp_path: Path) -> None:
    assert describe(results(tmp_path), {}, {}) == "**Stages**: cached: train; ran: evaluate"


def test_a_long_list_of_changes_is_cut(tmp_path: Path) -> None:
    many = {f"m{index}": float(index) for index in range(MAX_CHANGES + 3)}
    text = describe(results(tmp_path, **many), {"evaluate": dict.fromkeys(many, -1.0)}, {})
    assert text.count("- evaluate/") == MAX_CHANGES and text.endswith("- and 3 more")


def test_data_that_no_stage_writes_is_an_input(tmp_path: Path) -> None:
    assert data_inputs(tmp_path / "dvc.lock") == {}
    (tmp_path / "dvc.lock").write_text(LOCK)
    assert data_inputs(tmp_path / "dvc.lock") == {"data/raw": "12.dir", "data/captions.csv": "6"}
    assert output_digests(tmp_path / "dvc.lock") == {"outputs/a": "5", "outputs/b": "7"}

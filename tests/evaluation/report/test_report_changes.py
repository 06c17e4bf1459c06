"""What changed against an earlier run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from lumiere.errors import DataError
from lumiere.evaluation.report import Previous, parse_metrics, previous_metrics, summary
from lumiere.evaluation.report.changes import Effect, changes, gone
from lumiere.evaluation.scores import Better, Interval, Score, flat
from tests.evaluation.report.factory import score


def run_git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_last_committed_metrics_are_read_and_not_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "outputs" / "metrics" / "evaluate [1].json"
    path.parent.mkdir(parents=True)
    run_git(tmp_path, "init", "-q")
    assert previous_metrics(path) is None  # no commit
    path.write_text(json.dumps({"a": 1.5, "b": 2}))
    run_git(tmp_path, "add", ".")
    run_git(tmp_path, "commit", "-qm", "one")
    commit = run_git(tmp_path, "log", "-1", "--format=%h")
    (tmp_path / "other").write_text("later")
    run_git(tmp_path, "add", ".")
    run_git(tmp_path, "commit", "-qm", "two")
    path.write_text(json.dumps({"a": 9.0}))
    assert previous_metrics(path) == Previous({"a": 1.5, "b": 2.0}, commit)
    path.unlink()
    path.parent.rmdir()  # DVC removes outputs before the stage runs
    assert previous_metrics(path) == Previous({"a": 1.5, "b": 2.0}, commit)
    assert previous_metrics(tmp_path / "absent.json") is None


def test_without_git_there_is_no_earlier_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "metrics.json").write_text("{}")
    assert previous_metrics(tmp_path / "metrics.json") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert previous_metrics(tmp_path / "metrics.json") is None


@pytest.mark.parametrize("text", ["", "[1]", '{"a": "b"}', '{"a": true}', '{"a": NaN}'])
def test_metrics_that_are_not_numbers_are_refused_by_name(text: str) -> None:
    with pytest.raises(DataError, match=r"old\.json"):
        parse_metrics(text, "old.json")


def effect(now: Score, before: Score) -> Effect:
    (change,) = changes([now], flat([before], intervals=True))
    return change.effect


@pytest.mark.parametrize(
    ("better", "before", "now", "expected"),
    [
        (Better.LOWER, 10.0, 5.0, Effect.BETTER),
        (Better.LOWER, 5.0, 10.0, Effect.WORSE),
        (Better.HIGHER, 5.0, 10.0, Effect.BETTER),
        (Better.HIGHER, 10.0, 5.0, Effect.WORSE),
        (Better.CLOSER, 10.0, 15.0, Effect.BETTER),  # the floor is 16
        (Better.CLOSER, 15.0, 25.0, Effect.WORSE),
        (Better.LOWER, 10.0, 10.5, Effect.WITHIN),
        (Better.LOWER, 10.0, 10.0, Effect.EQUAL),
    ],
)
def test_a_change_counts_beyond_the_intervals(
    better: Better, before: float, now: float, expected: Effect
) -> None:
    def with_interval(value: float) -> Score:
        return score(value=value, better=better, interval=Interval(value - 1, value + 1))

    assert effect(with_interval(now), with_interval(before)) is expected


def test_one_interval_is_enough_and_none_is_not() -> None:
    bare, wide = score(value=5.0), score(value=10.0, interval=Interval(8.0, 12.0))
    assert effect(wide, bare) is Effect.WORSE
    assert effect(bare, wide) is Effect.BETTER
    assert effect(score(value=9.0), wide) is Effect.WITHIN
    assert effect(bare, score(value=6.0)) is Effect.UNSURE


def test_new_and_gone_scores_are_named_once() -> None:
    old = flat([score("retired"), score("kept")], intervals=True)
    now = [score("kept"), score("fresh")]
    assert [change.effect for change in changes(now, old)] == [Effect.EQUAL, Effect.NEW]
    assert gone(now, old) == ["retired"]


def test_an_interval_that_came_or_went_is_no_score_that_is_gone() -> None:
    before = flat([score("kept", interval=Interval(1.0, 2.0))], intervals=True)
    assert gone([score("kept")], before) == []


def test_the_summary_names_what_changed_and_counts_the_rest() -> None:
    now = [score("a", 5.0, interval=Interval(4.0, 6.0)), score("b")]
    old = flat([score("a", 10.0, interval=Interval(9.0, 11.0)), score("b")], intervals=True)
    assert summary(now, Previous(old, "abc1234")) == [
        "better: a 10 → 5",
        "1 score equal (against abc1234)",
    ]

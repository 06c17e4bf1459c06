"""Runs with other params: what they change, and that `params.yaml` is put back."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.run_params import (
    BEFORE,
    CHANGED,
    changed_params,
    check_params,
    main,
    read_override,
    restore_params,
)
from lumiere.errors import LockError, ParamsError
from lumiere.locks import inheritable_lock

TEXT = "curate:\n  seed: 3  # of the split\ngenerate: {seed: 16}\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(TEXT)
    (tmp_path / "other.yaml").write_text("curate:\n  seed: 7\n")
    return tmp_path


def test_other_params_hold_for_the_run_only(root: Path) -> None:
    overrides = {"curate.seed": 4, "generate.seed": 8}
    with changed_params(root, overrides=overrides) as params:
        assert (params.curate.seed, params.generate.seed) == (4, 8)
        text = (root / "params.yaml").read_text()
        assert text == TEXT.replace("3", "4").replace("16", "8")  # comments stay
    assert (root / "params.yaml").read_text() == TEXT
    with changed_params(root, "other.yaml", {"curate.workers": 1}) as params:
        assert (params.curate.seed, params.curate.workers) == (7, 1)
    assert (root / "params.yaml").read_text() == TEXT


def test_a_killed_run_is_put_right_by_the_next(root: Path) -> None:
    run = changed_params(root, overrides={"curate.seed": 4})
    run.__enter__()  # and never left
    with changed_params(root) as params:
        assert params.curate.seed == 3
    assert (root / "params.yaml").read_text() == TEXT


def test_a_killed_run_is_put_right_before_its_notes_are_deleted(root: Path) -> None:
    main(root)
    assert not (root / ".lumiere").exists()
    changed_params(root, overrides={"curate.seed": 4}).__enter__()  # and never left
    with (
        inheritable_lock(root / ".lumiere" / "pipeline.lock", 0.0, ""),
        pytest.raises(LockError, match="is at work"),
    ):
        main(root)
    main(root)
    assert (root / "params.yaml").read_text() == TEXT


def test_edits_during_a_run_stay(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with changed_params(root, overrides={"curate.seed": 4}):
        (root / "params.yaml").write_text("curate:\n  seed: 5\n")
    assert (root / "params.yaml").read_text() == "curate:\n  seed: 5\n"
    (kept,) = (root / ".lumiere").glob("params-before-*.yaml")
    assert kept.read_text() == TEXT and kept.name in caplog.text


def test_a_kill_before_the_change_leaves_no_trace(root: Path) -> None:
    (root / ".lumiere").mkdir()
    (root / CHANGED).write_text("curate:\n  seed: 4\n")
    (root / BEFORE).write_text(TEXT)
    restore_params(root)
    assert (root / "params.yaml").read_text() == TEXT and not (root / BEFORE).exists()


@pytest.mark.parametrize(
    ("profile", "overrides", "message"),
    [
        ("", {"curate.sed": 4}, r"params\.yaml: .*curate.*sed"),
        ("", {"curate.seed": "four"}, r"params\.yaml: .*curate\.seed.*four"),
        ("", {"seed": 4}, "name its section too, as in generate.seed"),
        ("", {"curate.seed.x": 4}, "seed is a value, not a section"),
        ("none.yaml", {}, r"none\.yaml: no such file"),
    ],
)
def test_what_cannot_be_used_changes_nothing(
    root: Path, profile: str, overrides: dict[str, object], message: str
) -> None:
    with pytest.raises(ParamsError, match=message):
        check_params(root, profile, overrides)
    with pytest.raises(ParamsError, match=message), changed_params(root, profile, overrides):
        raise AssertionError("not reached")
    assert (root / "params.yaml").read_text() == TEXT and not (root / BEFORE).exists()


def test_overrides_are_yaml() -> None:
    assert read_override("a.b=3") == ("a.b", 3)
    assert read_override("a.b=[1, 2]") == ("a.b", [1, 2])
    assert read_override("a.b=x=y") == ("a.b", "x=y")
    for text in ("a.b", "=3", "a.b=[1"):
        with pytest.raises(ParamsError, match="expected KEY=VALUE"):
            read_override(text)

"""DVC's graph as the flow sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import dag


def test_order_follows_dependencies(toy_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")  # names must not depend on the current folder
    nodes = {node.name: node for node in dag.read_dag(toy_project)}
    assert "".join(nodes) in ("abcd", "acbd")
    assert nodes["a"].dependencies == ()
    assert nodes["b"].dependencies == nodes["c"].dependencies == ("a",)
    assert nodes["d"].dependencies == ("b", "c")
    assert nodes["d"].metrics == (toy_project / "d.json",)
    assert all(node.is_changed for node in nodes.values())


def test_upstream_is_included(toy_project: Path) -> None:
    nodes = dag.read_dag(toy_project)
    assert [node.name for node in dag.with_upstream(nodes, ["b"])] == ["a", "b"]
    with pytest.raises(ValueError, match=r"'x' is not a stage; allowed: a, b, c, d"):
        dag.with_upstream(nodes, ["x"])


def test_the_project_has_the_ten_stages() -> None:
    names = [node.name for node in dag.read_dag(Path(__file__).resolve().parents[2])]
    assert set(names) == {
        "curate",
        "decode",
        "prepare_t2i",
        "train_base",
        "train_conditioned",
        "train_ssr",
        "train_style",
        "blend_style",
        "generate",
        "evaluate",
    }
    assert names[0] == "curate" and names[-1] == "evaluate"

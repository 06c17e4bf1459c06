"""DVC's graph as the flow sees it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from flows import dag
from lumiere.errors import DataError
from tests.flows.conftest import DVC_YAML, REPOSITORY, repro


def test_order_follows_dependencies(toy_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")  # names must not depend on the current folder
    nodes = {node.name: node for node in dag.read_dag(toy_project)}
    assert "".join(nodes) in ("abcd", "acbd")
    assert nodes["a"].dependencies == ()
    assert nodes["b"].dependencies == nodes["c"].dependencies == ("a",)
    assert nodes["d"].dependencies == ("b", "c")
    assert set(nodes["d"].outputs) == {toy_project / name for name in ("d.txt", "d.json", "videos")}
    assert nodes["d"].metrics == (toy_project / "d.json",)
    assert all(node.is_changed for node in nodes.values())


def test_stages_are_selected_by_what_they_depend_on(toy_project: Path) -> None:
    nodes = dag.read_dag(toy_project)

    def selected(*stages: str, only: bool = False, first: str = "") -> str:
        return "".join(node.name for node in dag.select(nodes, list(stages), only, first))

    assert selected() in ("abcd", "acbd")
    assert selected("b") == "ab" and selected("d") == selected()
    assert selected("b", "a", only=True) == "ab" and selected("d", only=True) == "d"
    assert selected(first="b") == "bd" and selected(first="a") == selected()
    with pytest.raises(ValueError, match=r"'x' is not a stage; allowed: a, [bc], [bc], d"):
        selected("x")
    with pytest.raises(ValueError, match=r"'x' is not a stage"):
        selected(first="x")
    for wrong in ({"only": True}, {"stages": ["b"], "first": "a"}):
        with pytest.raises(ValueError, match="--only needs --stages, and --from excludes both"):
            dag.select(nodes, **{"stages": [], **wrong})  # type: ignore[arg-type]


def test_a_state_can_be_asked_again(toy_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMIERE_TRACKING", "off")
    checker = dag.StageChecker(toy_project)
    assert checker.is_changed("a")
    repro(toy_project, "a")
    assert not checker.is_changed("a")
    (toy_project / "input.txt").write_text("second")
    assert checker.is_changed("a")
    repro(toy_project, "c")
    assert not checker.is_changed("a") and not checker.is_changed("c")
    (toy_project / "params.yaml").write_text("curate:\n  seed: 4\n")
    assert checker.is_changed("c") and not checker.is_changed("a")
    (toy_project / "params.yaml").write_text("curate:\n  seed: 3\n")
    assert not checker.is_changed("c")
    (toy_project / "a.txt").unlink()
    assert checker.is_changed("a")
    (toy_project / "dvc.yaml").write_text(DVC_YAML.replace("stage.py a input", "stage.py  a input"))
    assert checker.is_changed("a") and checker.is_changed("c")
    checker.close()


def test_the_index_is_read_once_while_its_files_stay_the_same(
    toy_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    original = dag.Repo

    def open_repo(root: str, **options: bool) -> object:
        opened.append(Path(root))
        return original(root, **options)

    monkeypatch.setattr(dag, "Repo", open_repo)
    checker = dag.StageChecker(toy_project)
    for name in "abcda":
        assert checker.is_changed(name)
    assert len(opened) == 1
    (toy_project / "params.yaml").write_text("curate:\n  seed: 5\n")
    assert checker.is_changed("a") and len(opened) == 2
    checker.close()
    del opened[:]
    checker = dag.StageChecker(toy_project)
    assert [node.is_changed for node in dag.read_dag(toy_project, checker)] == [True] * 4
    assert checker.is_changed("d") and len(opened) == 1
    checker.close()


def test_what_changes_after_the_index_was_read_is_seen(
    toy_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMIERE_TRACKING", "off")
    (toy_project / "folder").mkdir()
    (toy_project / "folder" / "one").write_text("1")
    (toy_project / "dvc.yaml").write_text(DVC_YAML.replace("[input.txt]", "[input.txt, folder]"))
    repro(toy_project, "c")
    checker = dag.StageChecker(toy_project)
    changed = {node.name: node.is_changed for node in dag.read_dag(toy_project, checker)}
    assert not changed["a"] and not changed["c"]
    for path, content in (("folder/one", "2"), ("folder/two", "new"), ("input.txt", "second")):
        file = toy_project / path
        before = file.read_text() if file.exists() else None
        file.write_text(content)
        assert checker.is_changed("a") and not checker.is_changed("c"), path
        file.unlink() if before is None else file.write_text(before)
        assert not checker.is_changed("a"), path
    (toy_project / "c.txt").unlink()
    assert checker.is_changed("c")
    checker.close()


def test_plots_are_pictures_and_tables_that_a_stage_writes() -> None:
    """`dvc plots show` complains about folders that contain anything else."""
    config = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())
    folders = {out for stage in config["stages"].values() for out in stage["outs"]}
    for plot in config["plots"]:
        if isinstance(plot, dict):
            [(name, settings)] = plot.items()
            assert name.endswith(".csv") and {"x", "y"} <= settings.keys(), plot
            assert str(Path(name).parents[1]) in folders and Path(name).parent.name == "plots"
        else:
            assert plot.endswith(".png") and str(Path(plot).parent) in folders, plot


def test_the_project_has_its_stages() -> None:
    names = [node.name for node in dag.read_dag(REPOSITORY)]
    assert set(names) == {
        "curate",
        "decode",
        "prepare_t2i",
        "train_base",
        "train_conditioned",
        "distil",
        "train_ssr",
        "train_style",
        "blend_style",
        "generate",
        "evaluate",
    }
    assert names[0] == "curate" and names[-1] == "evaluate"


def test_files_that_a_merge_or_a_kill_broke_name_their_cure(toy_project: Path) -> None:
    lock, busy = toy_project / "dvc.lock", toy_project / ".dvc" / "tmp" / "rwlock"
    lock.write_text("schema: '2.0'\n<<<<<<< HEAD\nstages: {}\n=======\n>>>>>>> other\n")
    for check in (dag.read_dag, dag.check_inputs):
        with pytest.raises(DataError, match=r"dvc\.lock: .*git checkout --ours"):
            check(toy_project)
    lock.unlink()
    busy.parent.mkdir(parents=True, exist_ok=True)
    for damaged in ("", '{"/a/b": {"read"'):
        busy.write_text(damaged)
        for check in (dag.read_dag, dag.check_inputs):
            with pytest.raises(DataError, match=r"rwlock: is damaged.*delete it"):
                check(toy_project)
    busy.write_text("{}")
    assert dag.read_dag(toy_project)


def test_what_dvc_cannot_read_is_named_before_it_hangs(toy_project: Path) -> None:
    (toy_project / "input.txt").unlink()
    (toy_project / "input.txt").mkdir()
    (toy_project / "input.txt" / "a.mp4").symlink_to("nothing.mp4")
    with pytest.raises(DataError, match=r"a\.mp4: a link to nothing"):
        dag.read_dag(toy_project)
    (toy_project / "input.txt" / "a.mp4").unlink()
    os.mkfifo(toy_project / "input.txt" / "b.mp4")
    for check in (dag.read_dag, dag.check_inputs):
        with pytest.raises(
            DataError, match=r"b\.mp4: a pipe.*delete it, or name it in \.dvcignore"
        ):
            check(toy_project)
    # What DVC is told to pass over does not stop it, and stays for the stage to reject by name.
    (toy_project / ".dvcignore").write_text("/input.txt/b.mp4\n")
    dag.check_inputs(toy_project)
    assert dag.read_dag(toy_project)

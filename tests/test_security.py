"""What must not happen in any code: pickles, other interfaces than loopback, shells, paths out of the
project, folders that others can read.
"""

from __future__ import annotations

import ast
import functools
import itertools
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import stages
from lumiere import tracking
from lumiere.addresses import redacted
from lumiere.cli.reproduce import clone
from lumiere.locks import exclusive, inheritable_lock, make_folder
from lumiere.run_origin import SECRETS_LEFT_OUT, git_patch
from lumiere.tracking import store
from lumiere.tracking.origins import Origin
from tests.test_tracking import journals, warnings_of

REPOSITORY = Path(__file__).resolve().parents[1]
CODE = ("lumiere", "stages", "flows", "scripts", "benchmarks", "data", "docs")

# Modules that run what a file says. (Processes of ours hand each other pickles through pipes of
# `multiprocessing`. Nobody else can write to these.)
PICKLING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# Functions of other packages that may unpickle, and what makes them safe.
SAFE_WHEN = {
    ("torch", "load"): ("weights_only", True),
    ("np", "load"): ("allow_pickle", False),
    ("numpy", "load"): ("allow_pickle", False),
}
NEVER = {
    *(("torch", name) for name in ("save",)),
    *(("pd", name) for name in ("read_pickle", "to_pickle")),
    *(("yaml", name) for name in ("unsafe_load", "full_load", "load_all")),
    ("hub", "load"),
    ("os", "system"),
    ("os", "popen"),
}
UNSAFE_ARGUMENTS = {
    ("allow_pickle", True),
    ("weights_only", False),
    ("safe_serialization", False),
    ("trust_remote_code", True),
    ("shell", True),
}


@functools.cache
def sources() -> list[tuple[str, ast.Module]]:
    """Return the names of all files of code, and their syntax trees."""
    paths = [path for folder in CODE for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    return [
        (path.relative_to(REPOSITORY).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        for path in paths
    ]


def imported(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def unsafe_calls(tree: ast.Module) -> Iterator[str]:
    """Yield the calls that may run code from a file, or a shell."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        options = {
            word.arg: word.value.value
            for word in node.keywords
            if word.arg and isinstance(word.value, ast.Constant)
        }
        problem = bool(UNSAFE_ARGUMENTS & set(options.items()))
        function = node.func
        if isinstance(function, ast.Name):
            problem |= function.id in ("eval", "exec", "__import__")
        elif isinstance(function, ast.Attribute):
            owner = function.value
            is_name = isinstance(owner, ast.Name | ast.Attribute)
            base = (owner.id if isinstance(owner, ast.Name) else owner.attr) if is_name else ""  # type: ignore[attr-defined]
            call = (base, function.attr)
            problem |= call in NEVER or function.attr == "to_pickle"
            if call in SAFE_WHEN:
                option, value = SAFE_WHEN[call]
                problem |= options.get(option) is not value
            if call == ("yaml", "load"):
                problem |= not any(word.arg == "Loader" for word in node.keywords) and (
                    len(node.args) < 2
                )
        if problem:
            yield f"line {node.lineno}: {ast.unparse(node)[:80]}"


def test_no_code_reads_or_writes_pickles() -> None:
    found = [
        f"{name}: imports {module}"
        for name, tree in sources()
        for module in sorted(imported(tree) & PICKLING)
    ]
    found += [f"{name}, {call}" for name, tree in sources() for call in unsafe_calls(tree)]
    assert found == []


@pytest.mark.parametrize(
    ("code", "is_unsafe"),
    [
        ("torch.load(path)", True),
        ("torch.load(path, weights_only=False)", True),
        ("torch.load(path, weights_only=True)", False),
        ("np.load(path)", True),
        ("np.load(path, allow_pickle=False)", False),
        ("torch.hub.load('a', 'b')", True),
        ("frame.to_pickle(path)", True),
        ("yaml.load(text)", True),
        ("yaml.load(text, Loader=LOADER)", False),
        ("subprocess.run(command, shell=True)", True),
        ("eval(text)", True),
        ("model.eval()", False),
    ],
)
def test_the_check_sees_unsafe_calls(code: str, is_unsafe: bool) -> None:
    assert bool([*unsafe_calls(ast.parse(code))]) is is_unsafe


def test_servers_listen_on_the_loopback_address_only() -> None:
    for name, tree in sources():
        texts = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not any("0.0.0.0" in text or text == "::" for text in texts), name
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "HOST":
                assert ast.unparse(node.value) == "'127.0.0.1'", name
            # A server gets its address in a list of words or as arguments, after `--host`.
            is_call = isinstance(node, ast.Call)
            words = node.args if is_call else getattr(node, "elts", [])  # type: ignore[attr-defined]
            for word, value in itertools.pairwise(words):
                if isinstance(word, ast.Constant) and word.value == "--host":
                    assert ast.unparse(value) == "HOST", name


@pytest.mark.parametrize("name", ["../../evil.json", "/evil.json", "a/../../../evil.json", ".."])
def test_no_name_of_an_artifact_leads_out(
    name: str,
    tmp_path: Path,
    empty_store: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = tmp_path / "project"
    (root / ".lumiere").mkdir(parents=True)
    shutil.copy(empty_store, root / ".lumiere")
    (root / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(root)
    with tracking.stage_run("train", {}) as run:
        run.log_dict({"a": 1}, name)
        run.log_dict({"a": 1}, "good.json")
        run.log_metrics({"loss": 1.0}, step=0)
    client = store.open_store(root)
    (found,) = client.search_runs([store.experiment_id(client, root)])
    assert found.data.metrics["loss"] == 1.0 and not journals()
    assert "good.json" in {file.path for file in client.list_artifacts(found.info.run_id)}
    assert not [*tmp_path.rglob("evil.json")] and not Path("/evil.json").exists()
    assert warnings_of(caplog)


def test_only_this_user_enters_a_new_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    previous = os.umask(0o022)
    try:
        for number, make in enumerate((make_folder, lambda path: exclusive(path / "a").acquire())):
            folder = tmp_path / str(number) / ".lumiere" / "prefect"
            make(folder)
            assert mode(folder.parent) == 0o700 and folder.is_dir()
            assert mode(folder.parents[1]) == 0o755
        with inheritable_lock(tmp_path / "locked" / ".lumiere" / "lock", 0, ""):
            assert mode(tmp_path / "locked" / ".lumiere") == 0o700
        (tmp_path / "shared" / ".lumiere").mkdir(parents=True, mode=0o775)
        os.chmod(tmp_path / "shared" / ".lumiere", 0o775)
        make_folder(tmp_path / "shared" / ".lumiere" / "prefect")
        assert mode(tmp_path / "shared" / ".lumiere") == 0o775  # as its owner set it
    finally:
        os.umask(previous)


def test_a_stage_makes_the_state_folder_for_this_user_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["curate"])
    stages.parse_arguments("x", scratch="finished measurements")
    assert stat.S_IMODE(Path(".lumiere").stat().st_mode) == 0o700


def commit_all(root: Path) -> str:
    """Make a commit of everything; return its id."""
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "a"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return head.stdout.strip()


REMOTE = "[core]\n    remote = s\n['remote \"s\"']\n    url = s3://bucket/data\n"


@pytest.mark.parametrize(
    ("committed", "now"),
    [
        (REMOTE, REMOTE + "    secret_access_key = hunter2secret\n"),
        (REMOTE + "    password = hunter2secret\n", REMOTE + "    timeout = 9\n"),  # the old one
        (REMOTE, REMOTE.replace("s3://", "https://me:hunter2secret@")),
    ],
)
def test_a_patch_has_no_secrets_of_dvc_and_still_applies(
    committed: str,
    now: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, again = tmp_path / "project", tmp_path / "again"
    (root / ".dvc").mkdir(parents=True)
    config, code, page = root / ".dvc" / "config", root / "code.py", root / "page.txt"
    config.write_text(committed)
    code.write_text("first\n")
    page.write_text("first\n")
    commit = commit_all(root)
    config.write_text(now)
    code.write_text("second\n")
    page.write_text("a note of my-s3-secret\n")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "my-s3-secret")
    patch = git_patch(root)
    assert "hunter2" not in patch and "my-s3-secret" not in patch
    assert patch.splitlines()[0] == f"{SECRETS_LEFT_OUT} .dvc/config, page.txt"
    clone(root, again, Origin("pipeline", commit, patch, "", {}))
    assert [(again / name).read_text() for name in ("code.py", ".dvc/config", "page.txt")] == [
        "second\n",
        committed,
        "first\n",
    ]
    assert f"{SECRETS_LEFT_OUT} .dvc/config, page.txt" in capsys.readouterr().err
    code.write_text("first\n")  # nothing is left
    clone(root, tmp_path / "last", Origin("pipeline", commit, git_patch(root), "", {}))


@pytest.mark.parametrize("folder", ["", "übung"])
@pytest.mark.parametrize(
    "setting",
    [
        "url = https://ghp_0123456789@host/data", "url = https://h/x?sv=1&sig=hunter2",
        "url = ssh://me:hunter2/more@host", "password = hunter2",
    ],
)  # fmt: skip
def test_settings_of_dvc_with_secrets_are_not_in_the_patch(
    tmp_path: Path, folder: str, setting: str
) -> None:
    config = tmp_path / folder / ".dvc" / "config"
    config.parent.mkdir(parents=True)
    config.write_text(REMOTE)
    commit_all(tmp_path)
    config.write_text(f"{REMOTE}    {setting}\n")
    assert setting not in git_patch(tmp_path / folder)


def test_settings_of_dvc_without_secrets_are_in_the_patch(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(REMOTE)
    (tmp_path / "code.py").write_text("first\n")
    commit_all(tmp_path)
    more = "    keyfile = ~/.ssh/id\n    ask_password = true\n    url = ssh://me@host/data\n"
    (tmp_path / ".dvc" / "config").write_text(REMOTE + more)
    (tmp_path / "code.py").write_text("password = 'a' * 8\n")  # code is not a setting
    patch = git_patch(tmp_path)
    assert patch.startswith("diff --git ") and "ask_password" in patch and "'a' * 8" in patch


@pytest.mark.parametrize(
    "variable",
    ["PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_TOKEN", "LUMIERE_WEBHOOK"],
)
def test_secrets_of_the_environment_are_hidden(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "https://hooks.example.org/hunter2")
    assert redacted("refused: https://hooks.example.org/hunter2 (403)") == "refused: *** (403)"

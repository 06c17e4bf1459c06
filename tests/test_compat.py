"""torchvision can be imported beside any build of torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked
from tests.as_script import NEEDS_COMPAT
from tests.conftest import REPOSITORY

COMPAT = "import lumiere.compat"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_torchvision_and_open_clip_import_after_it_and_it_does_nothing_where_it_is_not_needed() -> (
    None
):
    """It declares operators exactly where a plain import fails."""
    plain = run("import torchvision")
    code = "import torchvision, open_clip; from torchvision.transforms import v2"
    patched = run(f"{COMPAT} as c; {code}; print(c._library is not None)")
    assert patched.stdout.strip() == str(plain.returncode != 0), patched.stderr


def imported(source: str) -> set[str]:
    """Return the top-level packages that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("root", ["lumiere", "benchmarks"])
def test_a_package_imports_it_once_before_what_needs_it(root: str) -> None:
    """`lumiere.cli` is left out: its help must not load torch, and its modules import other
    packages first.
    """
    for path in sorted((REPOSITORY / root).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        name = path.relative_to(REPOSITORY)
        is_init = path.name == "__init__.py"
        assert is_init or COMPAT not in source, f"{name} imports lumiere.compat"
        if imported(source) & NEEDS_COMPAT and "cli" not in name.parts:
            init = path.with_name("__init__.py").read_text(encoding="utf-8")
            assert COMPAT in init, f"{name} needs {COMPAT} in its package's __init__.py"


SCRIPTS = ["baselines", "generate", "loader", "models"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_starts_as_a_script(name: str, tmp_path: Path) -> None:
    """In a fork that has imported torch and diffusers; see `tests.as_script`."""
    path = REPOSITORY / "benchmarks" / f"{name}.py"
    shown = forked.start(["tests.as_script", str(path), "--help"], tmp_path / "said.txt", tmp_path)
    assert "usage:" in shown.wait()


MISTAKES = {  # what a script does before it imports lumiere.compat, and how that ends
    "import diffusers": "diffusers is imported before lumiere.compat",
    "importlib.import_module('peft')": "peft is imported before lumiere.compat",
    "import third_party": "torchvision is imported before lumiere.compat",
    "from tests import forked": "No module named 'tests'",
}


def test_a_forked_script_shows_what_a_new_interpreter_would(tmp_path: Path) -> None:
    (tmp_path / "third_party.py").write_text("import torchvision")
    script = tmp_path / "script.py"
    script.write_text(f"""
import importlib
for mistake in {list(MISTAKES)}:
    try:
        exec(mistake)
        print("passed")
    except Exception as error:
        print(error)
""")
    shown = forked.start(["tests.as_script", str(script)], tmp_path / "said.txt", tmp_path)
    assert shown.wait().splitlines() == list(MISTAKES.values())


def test_a_benchmark_starts_in_a_new_interpreter(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / f"{SCRIPTS[0]}.py"), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr

"""torchvision can be imported beside any build of torch."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

NEEDS_COMPAT = {"diffusers", "open_clip", "peft", "torchvision", "transformers"}
COMPAT = "import lumiere.compat"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_torchvision_and_open_clip_import_after_it() -> None:
    code = "import torchvision, open_clip; from torchvision.transforms import v2; print('whole')"
    done = run(f"{COMPAT}; {code}")
    assert done.stdout.strip() == "whole", done.stderr


def test_is_needed_or_does_nothing() -> None:
    """It declares operators exactly where a plain import fails."""
    plain = run("import torchvision")
    patched = run("import lumiere.compat as c; print(c._library is not None)")
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


@pytest.mark.parametrize("name", ["baselines", "generate", "loader", "models"])
def test_a_benchmark_starts_as_a_script(name: str) -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / f"{name}.py"), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert shown.returncode == 0, shown.stderr

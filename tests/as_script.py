"""A file of this project, run as `python FILE` would, in a process that has imported much already.

    python -m tests.as_script FILE arguments    # in a fork; see `tests.forked`

The modules of this project, its tests included, are imported anew. What needs `lumiere.compat`
cannot be imported before it, as beside a CPU build of torch, whoever imports it and by whatever
means. Other packages that the process has imported stay so: a mistake that only their first import
shows is left to the test that starts a new interpreter.
"""

from __future__ import annotations

import runpy
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

NEEDS_COMPAT = {"diffusers", "open_clip", "peft", "torchvision", "transformers"}
OURS = {"lumiere", "stages", "flows", "benchmarks", "scripts", "tests"}


def main() -> None:
    """Run the file that the first argument names."""
    path = Path(sys.argv[1])
    root = str(Path(__file__).resolve().parents[1])
    sys.path[:] = [str(path.parent), *(entry for entry in sys.path if entry not in ("", root))]
    _take_modules(OURS)
    sys.meta_path.insert(0, UntilCompat())
    sys.argv[:] = sys.argv[1:]
    runpy.run_path(str(path), run_name="__main__")


class UntilCompat:
    """Finds packages that cannot be loaded, until `lumiere.compat` is imported.

    Then it hands back the modules that this process had imported, because a second import of them
    takes seconds.
    """

    def __init__(self) -> None:
        self.held = _take_modules(NEEDS_COMPAT)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name == "lumiere.compat":
            sys.meta_path.remove(self)
            sys.modules.update(self.held)
        elif name.split(".")[0] in NEEDS_COMPAT:
            return ModuleSpec(name, self)  # whether a package is installed may be asked
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        # Not an ImportError, which a package may take for "not installed".
        raise RuntimeError(f"{spec.name} is imported before lumiere.compat")

    def exec_module(self, module: ModuleType) -> None:
        """Never reached; a loader has to have it."""


def _take_modules(packages: set[str]) -> dict[str, ModuleType]:
    """Take all modules of some packages out of `sys.modules`."""
    names = [name for name in sys.modules if name.split(".")[0] in packages]
    return {name: sys.modules.pop(name) for name in names}


if __name__ == "__main__":
    main()

"""A file of this project, run as `python FILE` would, in a process that has imported much already.

    python -m tests.as_script FILE arguments    # in a fork; see `tests.forked`

The modules of this project are imported anew, and what needs `lumiere.compat` counts as broken
until that is imported, as it is beside a CPU build of torch.
"""

from __future__ import annotations

import builtins
import os
import runpy
import sys
from pathlib import Path
from typing import Any

NEEDS_COMPAT = {"diffusers", "open_clip", "peft", "torchvision", "transformers"}
OURS = ("lumiere", "stages", "flows", "benchmarks", "scripts")


def main() -> None:
    """Run the file that the first argument names."""
    path = Path(sys.argv[1])
    root = str(Path(__file__).resolve().parents[1])
    sys.path[:] = [str(path.parent), *(entry for entry in sys.path if entry not in ("", root))]
    for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
        del sys.modules[name]
    plain = builtins.__import__

    def check(name: str, globals: Any = None, *rest: Any, **more: Any) -> Any:
        importer = str((globals or {}).get("__file__", ""))
        is_early = "lumiere.compat" not in sys.modules
        if is_early and importer.startswith(root + os.sep) and name.split(".")[0] in NEEDS_COMPAT:
            raise ImportError(f"{importer} imports {name} before lumiere.compat")
        return plain(name, globals, *rest, **more)

    builtins.__import__ = check
    sys.argv[:] = sys.argv[1:]
    runpy.run_path(str(path), run_name="__main__")


if __name__ == "__main__":
    main()

"""Names what DVC cannot read: inputs of the stages, at some of which it would wait forever, and its
own files.

python -m flows.inputs && dvc repro    # is `make repro`
"""

from __future__ import annotations

from pathlib import Path

from dvc.exceptions import DvcException

from flows.dag import check_inputs
from lumiere.errors import run_program

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Look at the inputs of all stages."""
    check_inputs(ROOT)


if __name__ == "__main__":
    run_program(main, DvcException)

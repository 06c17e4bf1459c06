"""Names the inputs of the stages and the files of its own that DVC cannot read, with the cure.

At some inputs, DVC would wait forever.

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

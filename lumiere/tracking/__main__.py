"""Deliver to MLflow what earlier runs could not: `python -m lumiere.tracking`."""

from __future__ import annotations

from lumiere.errors import DataError, run_program
from lumiere.tracking import project_root, store
from lumiere.tracking.delivery import deliver_abandoned

PATIENCE = 600.0  # seconds


def main() -> None:
    """Deliver, and say what is left."""
    root = project_root()
    store.import_mlflow(store.tracking_uri(root))
    left, error = deliver_abandoned(root, PATIENCE)
    if left:
        reason = "" if error is None else f" ({error})"
        raise DataError(f"{left} runs are not delivered{reason}; try again when MLflow answers")
    print("MLflow has every run of this project")


if __name__ == "__main__":
    run_program(main)

"""Deliver to MLflow what earlier runs could not: `python -m lumiere.tracking`."""

from __future__ import annotations

from lumiere.addresses import redacted
from lumiere.errors import DataError, first_line, run_program
from lumiere.plurals import counted, is_or_are
from lumiere.tracking import project_root, store
from lumiere.tracking.courier import deliver_abandoned
from lumiere.tracking.journal import waiting_journals

PATIENCE = 600.0  # seconds


def main() -> None:
    """Deliver what is waiting, and print the result.

    Raises:
        DataError: if runs are left that could not be delivered.
    """
    root = project_root()
    store.import_mlflow(store.tracking_uri(root))
    left, error = deliver_abandoned(root, PATIENCE)
    if left:
        reason = "" if error is None else f" ({redacted(first_line(error))})"
        raise DataError(
            f"{counted(left, 'run')} {is_or_are(left)} not delivered{reason}; try again when MLflow answers"
        )
    others = len(waiting_journals(root))
    if others:
        print(
            f"MLflow has every run of this project that has ended and is for this store; {others} "
            "are at work or are for another MLFLOW_TRACKING_URI"
        )
    else:
        print("MLflow has every run of this project")


if __name__ == "__main__":
    run_program(main)

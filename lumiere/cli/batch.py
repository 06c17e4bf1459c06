"""Many videos in one call of `lumiere generate`, one row of a prompts file each: a row that fails
does not stop the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lumiere.cli.jobs import Job, Tell, run
from lumiere.cli.model import Model
from lumiere.errors import LumiereError, ModelError, first_line

if TYPE_CHECKING:
    from lumiere.pipelines.input_files import Clips


@dataclass(frozen=True)
class BatchRow:
    """A row of a batch.

    Attributes:
        name: the name of the row's video.
        job: None if the row cannot be done.
        problem: why the row cannot be done; empty if it can.
    """

    name: str
    job: Job | None = None
    problem: str = ""


def check_apart(table: Path, rows: Sequence[BatchRow]) -> None:
    """Raise ValueError if two rows would write the same file."""
    writers: dict[Path, str] = {}
    for row in rows:
        for target in row.job.targets if row.job is not None else ():
            other = writers.setdefault(target.beside, row.name)
            if other != row.name:
                raise ValueError(
                    f"{table}: {other!r} and {row.name!r} would both write {target.place}; rename "
                    "one of them"
                )


def run_batch(
    rows: Sequence[BatchRow],
    model: Model,
    clips: Clips | None,
    tell: Tell,
    show: Callable[[Path], None],
) -> dict[str, str]:
    """Make the videos that do not exist yet. A row that fails does not stop the others.

    Args:
        rows: what to make.
        model: makes all of them.
        clips: the training clips, if a row names one.
        tell: receives messages for the user.
        show: receives the path of each video, whether it is made now or existed before.

    Returns:
        What went wrong, by the name of the row.

    Raises:
        ModelError: if the model cannot make any of them.
    """
    failures: dict[str, str] = {}
    num_existing = 0
    for number, row in enumerate(rows, 1):
        tell(f"[{number}/{len(rows)}] {row.name}")
        try:
            if row.job is None:
                raise ValueError(row.problem)
            if row.job.is_done(model, clips):
                num_existing += 1
                tell("already there")
            else:
                run(row.job, model, clips, tell)
            for target in row.job.targets:
                show(target.place)
        except ModelError:
            raise
        except Exception as error:  # whatever it is, the other rows may be fine
            failures[row.name] = first_line(error)
            if not isinstance(error, (LumiereError, ValueError)):
                failures[row.name] = f"{type(error).__name__}: {first_line(error)}"
            tell(f"failed: {failures[row.name]}")
    num_made = len(rows) - num_existing - len(failures)
    tell(f"{num_made} made, {num_existing} already there, {len(failures)} failed")
    for name, problem in failures.items():
        tell(f"  {name}: {problem}")
    return failures

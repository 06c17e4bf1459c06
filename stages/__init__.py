"""One module per DVC stage, with the stage's name. It parses arguments, calls lumiere and writes
the outputs.
"""

from __future__ import annotations

import argparse
import errno
import glob
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from safetensors import SafetensorError

from lumiere import tracking
from lumiere.config import Params, to_dict
from lumiere.errors import (
    DataError,
    DiskError,
    LumiereError,
    ParamsError,
    exit_code,
    one_line,
    run_program,
)
from lumiere.files import raise_machine_error
from lumiere.locks import make_folder
from lumiere.start import (
    check_interpreter,
    drop_stray_launch,
    end_with_dvc,
    let_idle_threads_sleep,
    switch_telemetry_off,
)
from lumiere.threads import set_threads

OUTPUTS = ("out", "report", "metrics", "pipeline")
ADDRESSES = ("raw",)  # may also be globs, or addresses of an object store

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)

MAKE_INPUTS = "`dvc repro` makes what a stage needs"

# Before a stage imports packages that need docstrings, or that read these variables.
run_program(check_interpreter)
switch_telemetry_off()
let_idle_threads_sleep()


def run(main: Callable[[], None]) -> None:
    """Run a stage's main; print an error that the user can fix as one line, and exit with its code."""
    try:
        note = drop_stray_launch()
        if note:
            print(f"note: {note}", file=sys.stderr)
        end_with_dvc()
        set_threads()
        main()
    except LumiereError as error:
        failure = error
    except (OSError, SafetensorError) as error:
        number = _errno(error)
        if number not in (*NO_ROOM, *FORBIDDEN):
            raise
        failure = _disk_error(error) if number in NO_ROOM else _permission_error(error)
    else:
        return
    rank = os.environ.get("RANK", "0")
    process = "" if rank == "0" else f" in process {rank}"
    print(f"error{process}: {one_line(failure)}", file=sys.stderr)
    sys.exit(exit_code(failure))


def _disk_error(error: OSError | SafetensorError) -> DiskError:
    """Name the outputs on the command line, because the error itself names a temporary file or
    none.
    """
    outputs = [path for flag, path in pairwise(sys.argv) if flag.removeprefix("--") in OUTPUTS]
    return DiskError(
        f"{', '.join(outputs)}: cannot be written: {error}; make room and run the stage again"
    )


def _permission_error(error: OSError | SafetensorError) -> DiskError:
    return DiskError(
        f"{error}; let this user read and write it, or move it to another disk, and run the stage "
        "again"
    )


def _errno(error: OSError | SafetensorError) -> int | None:
    """Return the operating system's error number; safetensors gives it only in its message."""
    match = re.search(r"\(os error (\d+)\)", str(error))
    if match:
        return int(match[1])
    return getattr(error, "errno", None)


def spread(params: Params) -> None:
    """Run this stage in several processes if the params ask for it, and exit when they have ended.

    The params of the launch are recorded with the stage's MLflow run.
    """
    # Imported late: not every stage needs torch.
    from lumiere.training.launch import end_with_launcher, is_launched, run_in_processes

    tracking.record_with_every_run({"launch": to_dict(params.launch)})
    if is_launched():
        end_with_launcher()
    if params.launch.processes == 1 or is_launched():
        return
    module = sys.modules["__main__"].__spec__
    assert module is not None, "stages are run with python -m"
    run_in_processes(module.name, sys.argv[1:], params.launch.processes)
    sys.exit(0)


def parse_arguments(description: str | None, scratch: str = "", **paths: str) -> argparse.Namespace:
    """Parse a stage's command line: a params file, paths, and a scratch folder for work that can resume.

    Args:
        description: shown by `--help`.
        scratch: the content of the scratch folder; the default folder is named after the stage.
            Empty for no scratch folder.
        paths: the name and the meaning of each path.
    """
    stage = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(prog=f"python -m stages.{stage}", description=description)
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="default: params.yaml"
    )
    for name, about in paths.items():
        kind = str if name in ADDRESSES else Path
        parser.add_argument(f"--{name}", type=kind, required=True, help=about)
    if scratch:
        folder = Path(".lumiere/scratch") / stage
        parser.add_argument(
            "--scratch", type=Path, default=folder, help=f"{scratch}; default: {folder}"
        )
    arguments = parser.parse_args()
    for name in paths:
        path = getattr(arguments, name)
        is_address = name in ADDRESSES and ("://" in path or glob.has_magic(path))
        if name not in OUTPUTS and not is_address and not Path(path).exists():
            parser.exit(
                1,
                f"error: --{name} {path}: no such file or folder; {MAKE_INPUTS}\n",
            )
    if scratch:
        make_folder(arguments.scratch.parent)
    return arguments


@contextmanager
def reading(*paths: Path) -> Iterator[None]:
    """Turn any error about a stage's inputs into a DataError that names the inputs.

    An earlier stage made them, so `dvc repro` replaces the cure of an error that has one.
    """
    try:
        yield
    except DataError as error:
        raise DataError(error.problem, cure=MAKE_INPUTS) from None
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, OSError):
            named = error.filename
            raise_machine_error(error, Path(named) if isinstance(named, str) else paths[0])
        names = ", ".join(map(str, paths))
        raise DataError(f"{names}: cannot be used: {error}", cure=MAKE_INPUTS) from None


@contextmanager
def blaming(params: Path, key: str) -> Iterator[None]:
    """Turn a ValueError about the value of a params key into a ParamsError that names the file and the key."""
    try:
        yield
    except ValueError as error:
        raise ParamsError(f"{params}: {key}: {error}") from None

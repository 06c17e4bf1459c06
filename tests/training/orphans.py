"""Two processes that wait for ever, until one of them kills the program that launched them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from lumiere.training.launch import end_with_launcher, is_launched, run_in_processes


def main(folder: Path) -> None:
    """Launch two processes; each leaves a file in `folder`."""
    if not is_launched():
        run_in_processes("tests.training.orphans", [str(folder)], 2)
    end_with_launcher()
    rank = os.environ["RANK"]
    (folder / rank).touch()
    if rank == "1":
        while not (folder / "0").exists():
            time.sleep(0.05)
        os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(300)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

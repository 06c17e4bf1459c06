"""Sets the number of CPU threads of a stage, which decides the last bits of what it writes.

Another number of threads is another order of summation. A stage must write the same bytes under
`dvc repro` and in a flow, on two cores and on twenty. So the number does not depend on the machine,
and every stage depends on this file (`lumiere.staleness`).
"""

from __future__ import annotations

import os
import sys

from lumiere.errors import ParamsError

THREADS = 2
VARIABLE = "LUMIERE_NUM_THREADS"  # an environment variable that sets another number


def set_threads() -> None:
    """Let this process and those that it starts compute with the same number of threads.

    Raises:
        ParamsError: if LUMIERE_NUM_THREADS is not a number of threads.
    """
    number = os.environ.get(VARIABLE, str(THREADS))
    if not number.isdecimal() or int(number) < 1:
        raise ParamsError(f"{VARIABLE}: {number!r}; allowed: a whole number of at least 1")
    os.environ["OMP_NUM_THREADS"] = number
    if torch := sys.modules.get("torch"):  # already loaded; otherwise it follows the environment
        torch.set_num_threads(int(number))

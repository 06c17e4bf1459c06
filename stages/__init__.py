"""One module per DVC stage, of the same name: parse, call lumiere, write."""

from __future__ import annotations

import sys
from collections.abc import Callable

from lumiere.config import ConfigError
from lumiere.curation.reasons import CurationError
from lumiere.data.video_io import VideoError


def run(main: Callable[[], None]) -> None:
    """Runs a stage's main; what its user can mend ends in one line and exit code 1, without a traceback."""
    try:
        main()
    except (ConfigError, CurationError, VideoError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)

"""Keeps verdicts on pairs of clips from one run to the next."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lumiere.data.shards import pack_arrays, unpack_arrays
from lumiere.files import write_atomically

# Verdicts that a run did not ask for, or as many as it did ask for. Clips that a threshold rejects
# for a while keep theirs; if there are more, their videos are probably gone.
MOST_UNUSED = 100_000

Key = tuple[str, str]  # the digests of two clips, in order


class VerdictCache:
    """Holds the verdicts on pairs of clips, by key.

    Args:
        path: the file, an npz without pickles; None keeps nothing.
        code: the version of the code that decides; verdicts of another version do not count.
    """

    def __init__(self, path: Path | None, code: str) -> None:
        self._path, self._code = path, code
        self._verdicts: dict[Key, bool] = {}
        self._used: set[Key] = set()
        if path is None or not path.is_file():
            return
        arrays = unpack_arrays(path.read_bytes())
        if str(arrays["code"]) != code:
            return
        digests = arrays["digests"].tolist()
        pairs = zip(arrays["pairs"].tolist(), arrays["verdicts"].tolist(), strict=True)
        self._verdicts = {(digests[i], digests[j]): verdict for (i, j), verdict in pairs}

    def __contains__(self, key: Key) -> bool:
        self._used.add(key)
        return key in self._verdicts

    def __getitem__(self, key: Key) -> bool:
        return self._verdicts[key]

    def add(self, key: Key, verdict: bool) -> None:
        """Store whether a pair of clips passed."""
        self._verdicts[key] = bool(verdict)

    def save(self) -> None:
        """Write the verdicts: all, or, if there are too many others, those that this run asked for."""
        if self._path is None:
            return
        unused = self._verdicts.keys() - self._used
        if len(unused) > max(MOST_UNUSED, len(self._used)):
            for key in unused:
                del self._verdicts[key]
        keys = sorted(self._verdicts)
        digests = sorted({digest for key in keys for digest in key})
        places = {digest: place for place, digest in enumerate(digests)}
        content = pack_arrays(
            code=np.array(self._code),
            digests=np.array(digests),
            pairs=np.array([(places[one], places[other]) for one, other in keys], np.int32),
            verdicts=np.array([self._verdicts[key] for key in keys]),
        )
        write_atomically(self._path, content)

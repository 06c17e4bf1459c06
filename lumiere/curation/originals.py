"""Tells the original of a video from its copies, and gives it their captions.

A re-encode can only lose pixels, length and detail. Bits and pixels alone prove nothing, because a
copy that was encoded again at a higher bitrate, or enlarged, has more of them without more detail.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lumiere.curation.dedupe import block_means
from lumiere.curation.manifest import A_DUPLICATE, MODEL_SCHEMA, SCHEMA, clip_name
from lumiere.plurals import shortened, some_of

Row = dict[str, Any]

SAME_LENGTH_S = 0.1  # lengths that differ by less count as equal
# Encoding once more changes the sharpness, as measured on 363 pairs of clips of cameras, animations
# and textures (crf 16 to 20, and 4 to 38 of them). With 1.5 to 6 times the bits it changes little:
# by -3 to +1 %, and up to 8 more because colours were rounded once more. With fewer bits it changes
# more, mostly down, but the noise of coarse steps can look like detail.
GAIN, ROUNDING_GAIN = 0.003, 5.0  # of the sharpness, and in its units; by twice the bits
MOST_DOUBLINGS = 2.0
NOISE = 0.03  # a clip that is sharper than one with more bits by more than this has noise
MORE_BITS = 1.1  # from which on that counts
# By how much a picture is less sharp than one of 1/k of its sides, both at full size: at k = 2,
# enlarged ones had 10 to 15 % of the sharpness, real ones 27 to 73 %; at k = 1.5, 21 to 31 % and 59
# to 161 %. The limit lies between.
ENLARGED_POWER = 2.2

MOST_LISTED, LONGEST = 3, 60  # cells of a column in a note, and characters of each

CLEARLY_LESS = 0.8  # of a difference; both are noise if the picture is symmetric


def find_original(rows: Sequence[Row]) -> Row:
    """Return the clip that is probably the original.

    It is the longest of the largest clips that are not enlarged. Among equally long ones, it has
    the most detail for its bits.

    Args:
        rows: of the manifest; all show the same.
    """
    real = [row for row in rows if not any(_is_enlarged(row, other) for other in rows)]
    area = max(_area(row) for row in real)
    largest = [row for row in real if _area(row) == area]
    length = max(row["end"] - row["start"] for row in largest)
    longest = [row for row in largest if row["end"] - row["start"] > length - SAME_LENGTH_S]
    best, *others = sorted(longest, key=lambda row: (row["bitrate"], row["clip_id"]))
    for row in others:
        if _has_lost(best, row):
            best = row
    return best


def _area(row: Row) -> int:
    return row["width"] * row["height"]


def _is_enlarged(row: Row, smaller: Row) -> bool:
    """Return whether a clip has no more detail than a smaller one."""
    factor = math.sqrt(_area(row) / max(1, _area(smaller)))
    if factor <= 1:
        return False
    return row["sharpness"] < smaller["sharpness"] * factor**-ENLARGED_POWER


def _has_lost(row: Row, larger: Row) -> bool:
    """Return whether a clip was probably encoded from one with more bits, and not the other way
    round.

    Its sharpness then differs by more than bits that add no detail would explain.
    """
    ratio = max(1.0, larger["bitrate"] / max(row["bitrate"], 1e-6))
    gain = larger["sharpness"] - row["sharpness"]
    doublings = min(MOST_DOUBLINGS, math.log2(ratio))
    if gain > doublings * (ROUNDING_GAIN + GAIN * row["sharpness"]):
        return True
    return ratio >= MORE_BITS and -gain > 1 + NOISE * row["sharpness"]


def is_mirrored(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether a clip resembles the mirror image of another more than the other itself.

    Args:
        one, other: signatures, uint8 (4, 64, 64, 3).
    """
    ones, others = block_means(one), block_means(other)
    as_it_is, turned = np.abs(ones - others).mean(), np.abs(ones - others[:, :, ::-1]).mean()
    return bool(turned < CLEARLY_LESS * as_it_is)


def note_differences(best: Row, copies: Sequence[Row]) -> None:
    """Note what the table of captions says of copies in its other columns, such as a licence, and not
    of the clip that is kept.

    Nothing is filled in: a licence belongs to a file, and whether it holds for another file with the
    same pictures is for a person to decide.
    """
    notes = []
    for copy in copies:
        for name in _other_columns(copy):
            known = list(filter(None, dict.fromkeys(best[name])))
            said = dict.fromkeys(
                cell
                for text, cell in zip(copy["captions"], copy[name], strict=True)
                if cell and (cell not in known or _says_otherwise(best, name, text, cell))
            )
            if said:
                notes.append(
                    f"{name} of {clip_name(copy)}{A_DUPLICATE}: {_listed(list(said))}; "
                    f"of this video: {_listed(known) or 'none'}"
                )
    best["notes"] = [*best["notes"], *notes]


def _says_otherwise(best: Row, name: str, text: str, cell: str) -> bool:
    """Return whether a clip has a caption with another cell in a column."""
    return text in best["captions"] and best[name][best["captions"].index(text)] != cell


def _listed(cells: Sequence[str]) -> str:
    return some_of([shortened(cell, LONGEST) for cell in cells], MOST_LISTED)


def _other_columns(row: Row) -> list[str]:
    """Return the columns that the table of captions has besides its own."""
    own = {*SCHEMA.names, *MODEL_SCHEMA.names}
    return [name for name in row if name not in own]


def take_captions(best: Row, copy: Row) -> None:
    """Give a clip the captions of a copy that it lacks, with their other cells and a note.

    Captions of a person and those of a model are not mixed, because one column says who wrote them.
    """
    if best.get("captioner", "") != copy.get("captioner", ""):
        return
    places = [i for i, text in enumerate(copy["captions"]) if text not in best["captions"]]
    if not places:
        return
    for name in ("captions", *_other_columns(copy)):
        best[name] = [*best[name], *(copy[name][i] for i in places)]
    best["notes"] = [*best["notes"], f"captions of {clip_name(copy)}{A_DUPLICATE}"]
    if "caption_match" in best:  # that of the caption that fits worst
        best["caption_match"] = min(best["caption_match"], copy["caption_match"])

"""Lists the inputs of each mode (paper, section 4). Requests and pipelines share this table. It
does not import torch.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

# A mask belongs to the first entry. The last frame can stand beside the first one or replace it.
MODES: dict[str, tuple[str, ...]] = {
    "text_to_video": (),
    "image_to_video": ("image",),
    "inpainting": ("video", "mask"),
    "outpainting": ("video",),
    "cinemagraph": ("image", "mask"),
    "video_to_video": ("video",),
}
CONDITIONED_MODES = ("image_to_video", "inpainting", "outpainting", "cinemagraph")
DEFAULT_ALPHA, DEFAULT_STRENGTH = 0.75, 0.6


def infer_mode(mode: str | None, image: Any, video: Any, mask: Any, last_image: Any = None) -> str:
    """Return the named mode, or the one that the inputs make.

    Args:
        mode: a key of `MODES`, or None to infer it. Outpainting is never inferred: a video alone means video to video.
        image, video, mask, last_image: any values; None means that the input is absent.

    Raises:
        ValueError: if the mode is unknown, or the inputs do not fit it.
    """
    inputs = {"image": image, "last_image": last_image, "video": video, "mask": mask}
    present = [name for name, value in inputs.items() if value is not None]
    if mode is None:
        for name in MODES:
            if name != "outpainting" and _makes(present, name):
                return name
        meanings = [
            f"{' + '.join(parts) or 'prompt only'}: {name}"
            for name, parts in MODES.items()
            if name != "outpainting"
        ]
        raise ValueError(
            f"no mode is made from {' and '.join(present)}; allowed: {', '.join(meanings)}; "
            "image_to_video also takes last_image, beside image or alone; outpainting has to be named"
        )
    if mode not in tuple(MODES):  # a tuple, since the value may have no hash
        raise ValueError(f"mode is {mode!r}; allowed: {', '.join(MODES)}")
    if not _makes(present, mode):
        expected = " and ".join(MODES[mode]) or "the prompt alone"
        if mode == "image_to_video":
            expected = "image, last_image or both"
        got = " and ".join(present) or "the prompt alone"
        raise ValueError(f"mode {mode!r} takes {expected}; given: {got}")
    return mode


def subject(mode: str) -> str | None:
    """Return whether a mode works on an "image" or on a "video"; None if it works on neither."""
    return MODES[mode][0] if MODES[mode] else None


def strength_applies_to(mode: str) -> str | None:
    """Return whether `strength` sets how far a mode may depart from its "image" or its "video";
    None if it has no such setting.
    """
    if mode == "video_to_video":
        return "video"
    return "image" if subject(mode) == "image" else None


def _makes(present: Collection[str], mode: str) -> bool:
    if mode == "image_to_video":
        return bool(present) and set(present) <= {"image", "last_image"}
    return set(MODES[mode]) == set(present)

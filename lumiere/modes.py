"""Lists the inputs of each mode (paper, section 4). Requests and pipelines share this table. It
does not import torch.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

# The first input of a mode is its subject, which a mask belongs to.
MODES: dict[str, tuple[str, ...]] = {
    "text_to_video": (),
    "image_to_video": ("image", "last_image"),
    "inpainting": ("video", "mask"),
    "outpainting": ("video",),
    "cinemagraph": ("image", "mask"),
    "video_to_video": ("video",),
}
ANY_INPUT_SUFFICES = ("image_to_video",)  # the other modes need all of theirs
NEVER_INFERRED = ("outpainting",)  # a video alone means video_to_video
CONDITIONED_MODES = ("image_to_video", "inpainting", "outpainting", "cinemagraph")
DEFAULT_ALPHA, DEFAULT_STRENGTH, DEFAULT_OUTPAINT_SCALE = 0.75, 0.6, 0.75


def infer_mode(mode: str | None, image: Any, video: Any, mask: Any, last_image: Any = None) -> str:
    """Return the named mode, or the one inferred from the inputs.

    Args:
        mode: a key of `MODES`, or None to infer it. Outpainting is never inferred: a video alone means video to video.
        image, video, mask, last_image: any values; None means that the input is absent.

    Raises:
        ValueError: if the mode is unknown, or the inputs do not fit it.
    """
    inputs = {"image": image, "last_image": last_image, "video": video, "mask": mask}
    present = [name for name, value in inputs.items() if value is not None]
    described = " and ".join(present) or "the prompt alone"
    if mode is not None:
        check_mode(mode)
        if not _makes(present, mode):
            raise ValueError(f"mode {mode!r} takes {_expected(mode)}; given: {described}")
        return mode
    inferred = [name for name in MODES if name not in NEVER_INFERRED]
    for name in inferred:
        if _makes(present, name):
            return name
    meanings = [f"{name} from {_expected(name)}" for name in inferred]
    raise ValueError(
        f"no mode is made from {described}; allowed: {'; '.join(meanings)}; "
        f"{', '.join(NEVER_INFERRED)} has to be named"
    )


def check_mode(mode: Any) -> None:
    """Raise ValueError unless `mode` is a key of `MODES`."""
    if mode not in tuple(MODES):  # a tuple, since the value may have no hash
        raise ValueError(f"mode is {mode!r}; allowed: {', '.join(MODES)}")


def check_settings(mode: str, **settings: Any) -> None:
    """Raise ValueError if a setting is given that a mode would not read.

    Args:
        mode: a key of `MODES`.
        settings: `strength`, `image_strength` or `outpaint_scale`; None where not given.
    """
    read = {"video": "strength", "image": "image_strength"}.get(strength_applies_to(mode) or "")
    if mode == "outpainting":
        read = "outpaint_scale"
    for name, value in settings.items():
        if value is not None and name != read:
            instead = f"set {read}" if read else f"leave {name} out"
            raise ValueError(f"{name} is {value!r}, but mode {mode!r} does not read it; {instead}")


def subject(mode: str) -> str | None:
    """Return whether a mode works on an "image" or on a "video"; None if it works on neither."""
    return MODES[mode][0] if MODES[mode] else None


def sources(mode: str) -> set[str]:
    """Return the fields of a request that may hold a mode's pixels; a clip replaces the subject."""
    return {*MODES[mode], "clip"} if MODES[mode] else set()


def go_together(source: str, other: str) -> bool:
    """Return whether some mode takes both of two fields that hold pixels.

    A clip replaces an image or a video, so it goes with neither.
    """
    pair = {source, other}
    if "clip" in pair and pair & {subject(mode) for mode in MODES}:
        return False
    return any(pair <= sources(mode) for mode in MODES)


def strength_applies_to(mode: str) -> str | None:
    """Return whether `strength` sets how far a mode may depart from its "image" or its "video";
    None if it has no such setting.
    """
    if mode == "video_to_video":
        return "video"
    return "image" if subject(mode) == "image" else None


def _makes(present: Collection[str], mode: str) -> bool:
    """Return whether the inputs that are present make a mode."""
    if mode in ANY_INPUT_SUFFICES:
        return bool(present) and set(present) <= set(MODES[mode])
    return set(present) == set(MODES[mode])


def _expected(mode: str) -> str:
    """Write the inputs of a mode in words."""
    if mode in ANY_INPUT_SUFFICES:
        return f"{', '.join(MODES[mode])} or both"
    return " and ".join(MODES[mode]) or "the prompt alone"

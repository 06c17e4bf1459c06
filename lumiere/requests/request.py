"""A request for one video, or for several that differ only in their seed, and its checks."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from lumiere.modes import check_mode, infer_mode, strength_applies_to, subject
from lumiere.plurals import shortened

QUOTED = 40  # characters of a value in a message
FILES = ("image", "last_image", "video", "mask")
FLAGS = ("keep_known", "upscale")
MAX_SEED, MAX_FRAMES = 2**63 - 1, 10_000
WHOLE_NUMBERS = {
    "seed": (0, MAX_SEED),
    "num_videos": (1, 1000),
    "frames": (1, MAX_FRAMES),
    "steps": (1, 1000),
}
NUMBERS = {
    "alpha": (0, 1),
    "strength": (0, 1),
    "guidance": (1, 100),
    "motion": (0, 100),
    "smoothing": (0, 1),
}
YES, NO = ("1", "true", "yes"), ("0", "false", "no")
NUMBER = r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*"
BOX = re.compile(",".join([NUMBER] * 4))
MAX_NAME = 150  # most disks take 255 bytes; numbers and suffixes such as .sheet.png come on top
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
FILE_NAME = re.compile(r"\S+\.(mp4|webm|gif|webp|png)", re.IGNORECASE)


@dataclass(frozen=True)
class Box:
    """A box in fractions of the frame, from 0 to 1, counted from the top left corner."""

    x0: float
    y0: float
    x1: float
    y1: float

    def __str__(self) -> str:
        return f"{self.x0},{self.y0},{self.x1},{self.y1}"

    @classmethod
    def parse(cls, text: str) -> Box | None:
        """Parse a box `x0,y0,x1,y1`; return None if the text is not four numbers.

        Raises:
            ValueError: if four numbers do not make a box.
        """
        if not BOX.fullmatch(text):
            return None
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise ValueError(
                f"mask {text}: a box is x0,y0,x1,y1 in shares of the frame, with 0 <= x0 < x1 <= 1 "
                "and 0 <= y0 < y1 <= 1, such as 0.5,0,1,1 for the right half"
            )
        return cls(x0, y0, x1, y1)

    def paint(self, height: int, width: int) -> np.ndarray:
        """Paint a mask, uint8 (h, w): 255 in the box, 0 elsewhere.

        Raises:
            ValueError: if the box holds no pixel.
        """
        mask = np.zeros((height, width), np.uint8)
        rows = slice(round(self.y0 * height), round(self.y1 * height))
        columns = slice(round(self.x0 * width), round(self.x1 * width))
        mask[rows, columns] = 255
        if not mask.any():
            raise ValueError(
                f"mask {self}: no pixel of {width} x {height} lies in it; make the box larger"
            )
        return mask


@dataclass(frozen=True)
class Request:
    """A video to make. `make_request` builds a checked one. None leaves a setting to the model.

    Attributes:
        name: the name of the files; empty if the caller names them.
        mode: a key of `lumiere.modes.MODES`.
        image, last_image, video: paths of files.
        clip: the id of a training clip, which replaces `image` or `video`, depending on the mode.
        mask: where to generate: the path of a picture or a video, or a box.
        strength: how far the result may depart from the video or the picture, 0 to 1.
        alpha: the weight of `style`, 0 to 1.
        keep_known: whether the given pixels are put back exactly at the end.
        num_videos: how many to make, with the seeds `seed`, `seed` + 1, ...
        motion, smoothing: the `motion_scale` and the `temporal_smoothing` of the pipeline's call.
    """

    prompt: str
    name: str = ""
    negative_prompt: str | None = None
    mode: str = "text_to_video"
    image: str | None = None
    last_image: str | None = None
    video: str | None = None
    clip: str | None = None
    mask: str | Box | None = None
    strength: float | None = None
    style: str | None = None
    alpha: float | None = None
    keep_known: bool = False
    frames: int | None = None
    num_videos: int = 1
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    motion: float | None = None
    smoothing: float | None = None
    upscale: bool | None = None

    def split(self, seed: int) -> list[Request]:
        """Split a request into one per video, numbered from 1. `seed` is the first seed if the
        request has none.
        """
        first = seed if self.seed is None else self.seed
        if self.num_videos == 1:
            return [replace(self, seed=first)]
        return [
            replace(self, name=f"{self.name}-{i + 1}", seed=first + i, num_videos=1)
            for i in range(self.num_videos)
        ]

    def input_files(self) -> dict[str, Path]:
        """Return the files that the request reads, by field."""
        values = {name: getattr(self, name) for name in FILES}
        return {name: Path(value) for name, value in values.items() if isinstance(value, str)}

    def as_values(self) -> dict[str, Any]:
        """Return all fields as JSON values, in the form that `make_request` takes."""
        values = asdict(self)
        values["mask"] = None if self.mask is None else str(self.mask)
        return values


def make_request(values: Mapping[str, Any]) -> Request:
    """Check values and make a request from them.

    Args:
        values: by field of `Request`, as text or in the field's own type. Empty text and None leave
            a field open. Without a mode, the inputs determine it. Relative paths start from the
            current folder.

    Raises:
        ValueError: if a value cannot be used; the message names the field, the value and how to fix
            it.
    """
    parsed = parse_values(values)
    for name in FILES:
        if isinstance(parsed.get(name), str):
            parsed[name] = os.path.abspath(parsed[name])
    if not parsed.get("prompt", "").strip():
        raise ValueError("the prompt is empty; describe the video in a sentence")
    if FILE_NAME.fullmatch(parsed["prompt"].strip()):
        raise ValueError(
            f"the prompt {parsed['prompt']} looks like a file; describe the video in a sentence, "
            "and name files with options, such as -o fox.mp4"
        )
    request = Request(**{**parsed, "mode": resolve_mode(parsed)})
    _check_weights(request)
    _check_seeds(request)
    for name, path in request.input_files().items():
        try:
            is_file = path.is_file()
        except OSError as error:  # a sentence in the wrong column is too long for a name
            raise ValueError(
                f"{name} {shortened(str(path), QUOTED)}: {error.strerror}; name a file"
            ) from None
        if not is_file:
            raise ValueError(f"{name} {path}: {_why_no_file(name, path)}")
    return request


def parse_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert values to the types of `Request`, without those that are empty.

    Raises:
        ValueError: if a field is unknown, or a value cannot be used; the message names the field,
            the value and what is allowed.
    """
    for name in values:
        if name not in field_names():
            raise ValueError(f"no field {name!r}; allowed: {', '.join(field_names())}")
    return {
        name: _parse(name, value)
        for name, value in values.items()
        if value is not None and value != ""
    }


def check_name(name: str) -> None:
    """Raise ValueError unless `name` can begin the names of files in any folder."""
    if not NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise ValueError(
            f"name {shortened(repr(name), QUOTED)}; allowed: letters, digits, '.', '_', '-', at most "
            f"{MAX_NAME} of them, the first a letter or a digit"
        )


def resolve_mode(values: Mapping[str, Any]) -> str:
    """Return the mode of parsed values: the named one, or the one inferred from their inputs.

    Raises:
        ValueError: if they do not form a mode.
    """
    mode, clip = values.get("mode"), values.get("clip")
    inputs = {name: values.get(name) for name in FILES}
    if clip is None:
        return infer_mode(mode, **inputs)
    if mode is None:
        raise ValueError(
            f"clip {clip} can be a picture or a video; name the mode, such as image_to_video"
        )
    check_mode(mode)
    role = subject(mode)
    if role is None:
        raise ValueError(f"mode {mode} takes no clip; leave the clip out, or name another mode")
    if inputs[role] is not None:
        raise ValueError(f"clip and {role} are two sources of pixels; give one of them")
    return infer_mode(mode, **{**inputs, role: clip})


def field_names() -> list[str]:
    """Return the fields of `Request`, in order."""
    return [field.name for field in fields(Request)]


# --- checks of one value ---------------------------------------------------------------------------------------------


def _parse(name: str, value: Any) -> Any:
    if name == "mask" and isinstance(value, Box):
        return value
    if name in FLAGS:
        return _parse_flag(name, value)
    if name in WHOLE_NUMBERS or name in NUMBERS:
        return _parse_number(name, value)
    text = _parse_text(name, value)
    if name == "mask":
        return Box.parse(text) or text
    if name == "name":
        check_name(text)
    return text


def _parse_flag(name: str, value: Any) -> bool:
    text = str(value).lower()
    if text not in (*YES, *NO):
        raise ValueError(f"{name} is {value!r}; allowed: yes, no")
    return text in YES


def _parse_number(name: str, value: Any) -> int | float:
    is_whole = name in WHOLE_NUMBERS
    low, high = WHOLE_NUMBERS[name] if is_whole else NUMBERS[name]
    kind = "whole numbers, " if is_whole else ""
    error = ValueError(f"{name} is {shortened(str(value), QUOTED)}; allowed: {kind}{low} to {high}")
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise error
    try:
        number = int(value) if is_whole else float(value)
    except (ValueError, OverflowError):
        raise error from None
    is_rounded = not isinstance(value, str) and number != value
    if is_rounded or not low <= number <= high:
        raise error
    return number


def _parse_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {shortened(str(value), QUOTED)}; expected text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{name} is {value!r}, which is not in UTF-8; type it again, or rename the file"
        ) from None
    return value


# --- checks of values together ---------------------------------------------------------------------------------------


def _check_weights(request: Request) -> None:
    if request.strength is not None and strength_applies_to(request.mode) is None:
        raise ValueError(
            f"strength has no meaning in mode {request.mode}; it is for a video without a mask, "
            "or for an image; leave it out"
        )
    if request.alpha is not None and not request.style:
        raise ValueError("alpha is the weight of a style; name a style, or leave alpha out")


def _check_seeds(request: Request) -> None:
    if request.seed is not None and request.seed > MAX_SEED - (request.num_videos - 1):
        raise ValueError(
            f"seed {request.seed} with num_videos {request.num_videos}: the last seed would be "
            f"above {MAX_SEED}; use a smaller seed"
        )


def _why_no_file(name: str, path: Path) -> str:
    if path.is_dir():
        if name == "video":
            return "is a folder; a folder of PNGs is not read as a video, make an mp4 of it first"
        return "is a folder; name a file in it"
    if name == "mask":
        return "no such file; name a picture, a video, or a box x0,y0,x1,y1"
    return "no such file; check the path"

"""What `lumiere generate` is asked for: by options, by a row of a prompts file, or by a settings file.

Nothing here needs torch, so that most mistakes show before a model is loaded.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lumiere.data.tables import read_table
from lumiere.export import WRITERS

DEFAULT_ALPHA, DEFAULT_STRENGTH = 0.75, 0.6
FILES = ("image", "last_image", "video", "mask")
FLAGS = ("cinemagraph", "outpaint", "keep_known", "upscale")
MOST_SEED, MOST_FRAMES = 2**63 - 1, 10_000
WHOLE = {
    "seed": (0, MOST_SEED),
    "num_videos": (1, 1000),
    "frames": (1, MOST_FRAMES),
    "steps": (1, 1000),
}
NUMBERS = {"alpha": (0, 1), "strength": (0, 1), "guidance": (1, 100)}
FROM_A_PICTURE = ("image_to_video", "cinemagraph")
# What an option takes the place of in settings that are read again: the two make no mode together.
REPLACES = {
    "image": ("video", "outpaint"),
    "last_image": ("video", "outpaint", "mask", "cinemagraph"),
    "video": ("image", "last_image", "cinemagraph"),
    "mask": ("last_image", "outpaint"),
    "cinemagraph": ("video", "outpaint", "last_image"),
    "outpaint": ("image", "last_image", "mask", "cinemagraph"),
}
LONGEST_SLUG = 80
YES, NO = ("1", "true", "yes"), ("0", "false", "no")
FILE_NAME = rf"\S+({'|'.join(map(re.escape, (*WRITERS, '.png')))})"
BOX = re.compile(r"\s*,\s*".join([r"\s*[-+]?(?:\d+\.?\d*|\.\d+)"] * 4) + r"\s*")


@dataclass(frozen=True)
class Request:
    """One call of the pipeline; None leaves a setting to the model.

    Attributes:
        mask: a file's path, or a box x0,y0,x1,y1 in shares of the frame.
    """

    prompt: str = ""
    negative_prompt: str | None = None
    image: str | None = None
    last_image: str | None = None
    video: str | None = None
    mask: str | None = None
    cinemagraph: bool = False
    outpaint: bool = False
    strength: float | None = None
    style: str | None = None
    alpha: float | None = None
    keep_known: bool = False
    frames: int | None = None
    num_videos: int = 1
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    upscale: bool | None = None

    @property
    def mode(self) -> str:
        """The pipeline's name for it."""
        if self.outpaint:
            return "outpainting"
        if self.video:
            return "inpainting" if self.mask else "video_to_video"
        if self.image and self.mask:
            return "cinemagraph"
        return "image_to_video" if self.image or self.last_image else "text_to_video"

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """The mask, where it is a box."""
        if self.mask is None or not BOX.fullmatch(self.mask):
            return None
        x0, y0, x1, y1 = (float(part) for part in self.mask.split(","))
        return x0, y0, x1, y1

    def input_files(self) -> dict[str, Path]:
        """The files that it reads, by option."""
        paths = {name: getattr(self, name) for name in FILES}
        return {
            name: Path(path)
            for name, path in paths.items()
            if path and not (name == "mask" and self.box)
        }

    def asked(self) -> dict[str, Any]:
        """What was asked for, without what was left open."""
        return {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None
        }


def make_request(values: Mapping[str, Any]) -> Request:
    """Check and build a request.

    Args:
        values: by attribute of `Request`, as text or as what they are; "" and None leave a setting open.

    Raises:
        ValueError: in terms of the command line, with the cure.
    """
    given = _parsed(values)
    for name in FILES:
        if name in given and not (name == "mask" and BOX.fullmatch(given[name])):
            given[name] = os.path.abspath(given[name])
    request = Request(**given)
    if not request.prompt.strip():
        raise ValueError("the prompt is empty; describe the video in a sentence")
    if re.fullmatch(FILE_NAME, request.prompt.strip(), re.IGNORECASE):
        raise ValueError(
            f"the prompt {request.prompt} looks like a file; describe the video in a sentence, and name files with "
            "options, such as -o fox.mp4"
        )
    _check_mode(request)
    _check_mask(request)
    if request.seed is not None and request.seed > MOST_SEED - (request.num_videos - 1):
        raise ValueError(
            f"--seed {request.seed} with --num-videos {request.num_videos}: the last seed would be above {MOST_SEED}; "
            "use a smaller one"
        )
    for name, path in request.input_files().items():
        if not path.is_file():
            raise ValueError(f"{option(name)} {path}: {_no_file(name, path)}")
    return request


def option(name: str) -> str:
    """An attribute's name on the command line."""
    return "--" + name.replace("_", "-")


def counted(frames: int) -> str:
    """A number of frames in words."""
    return "1 frame" if frames == 1 else f"{frames} frames"


def read_rows(path: Path, shared: Mapping[str, Any]) -> list[tuple[str, Request | ValueError]]:
    """The rows of a prompts file: names, and requests or what is wrong with them.

    Args:
        path: CSV with a column `prompt`, and if wanted `name` and the attributes of `Request`. Relative paths are
            relative to its folder.
        shared: for cells that are empty or absent.

    Raises:
        ValueError: when the file as a whole cannot be used.
    """
    columns = ("name", *(field.name for field in fields(Request) if field.name != "prompt"))
    rows: list[tuple[str, Request | ValueError]] = []
    for number, (line, cells) in enumerate(read_table(path, ("prompt",), columns), 1):
        name = cells.pop("name") or f"{number:03d}-{_slug(cells['prompt'])}".rstrip("-")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(
                f"{path}, line {line}: name {name!r}; allowed: letters, digits, '.', '_', '-'"
            )
        if name in (other for other, _ in rows):
            raise ValueError(
                f"{path}, line {line}: name {name!r} stands twice; expected one name per video"
            )
        given = {key: cell for key, cell in cells.items() if cell}
        for key in set(FILES) & given.keys():
            if not (key == "mask" and BOX.fullmatch(given[key])):
                given[key] = str(path.parent / given[key])
        try:
            rows.append((name, make_request({**shared, **given})))
        except ValueError as error:
            rows.append((name, error))
    return rows


def read_settings(path: Path) -> dict[str, Any]:
    """The content of a settings file.

    Raises:
        ValueError: where it is none.
    """
    cure = "expected the JSON file that lumiere generate writes beside a video"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; {cure}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: not JSON; {cure}") from None
    if not is_settings(content):
        raise ValueError(f"{path}: other settings; {cure}")
    for name, kind in (("model", str), ("files_sha256", dict)):
        if not isinstance(content.get(name, kind()), kind):
            raise ValueError(f"{path}: {name} is {content[name]!r}; {cure}")
    return content


def is_settings(content: Any) -> bool:
    """Whether JSON content was written by `lumiere generate`."""
    return (
        isinstance(content, dict)
        and "lumiere" in content
        and isinstance(content.get("prompt"), str)
    )


def changed(
    settings: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The settings of a video, with other options.

    Args:
        settings: of a settings file.
        given: what is to be another, as for `make_request`; "" takes a setting away.

    Returns:
        What `make_request` takes, and the settings left out since they do not go with `given`.

    Raises:
        ValueError: on a value that is impossible.
    """
    before = _settings_values(settings)
    now = _parsed(given)
    gone = {other for name in REPLACES if now.get(name) for other in REPLACES[name]}
    if any(before.get(name) for name in gone & {"image", "video"}):
        gone.add("mask")  # it lies on them
    values = {name: value for name, value in before.items() if name not in gone} | dict(given)
    old, new = (
        Request(**_parsed({name: each.get(name) for name in REPLACES})) for each in (before, values)
    )
    if _meaning_of_strength(old) != _meaning_of_strength(new):
        gone.add("strength")
    if (now.get("style") if "style" in given else before.get("style")) != before.get("style"):
        gone.add("alpha")
    if "video" in given or (before.get("video") and not new.video):
        gone.add("frames")  # as many as the former video had
    left_out = [
        name for name, value in before.items() if name in gone - given.keys() and value is not False
    ]
    return {name: value for name, value in values.items() if name not in left_out}, left_out


# --- checks ----------------------------------------------------------------------------------------------------------


def _parsed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _parse(name, value)
        for name, value in values.items()
        if value is not None and value != ""
    }


def _parse(name: str, value: Any) -> Any:
    """A value of the right type, from text, or from whatever a JSON file holds."""
    if name in FLAGS:
        text = str(value).lower()
        if text not in (*YES, *NO):
            raise ValueError(f"{name} is {value!r}; allowed: yes, no")
        return text in YES
    if name not in WHOLE and name not in NUMBERS:
        return _parse_text(name, value)
    whole = name in WHOLE
    least, most = WHOLE[name] if whole else NUMBERS[name]
    try:
        number = int(value) if whole else float(value)
        fits = (
            least <= number <= most
            and not isinstance(value, bool)
            and (isinstance(value, str) or number == value)
        )
    except (ValueError, TypeError, OverflowError):
        fits = False
    if not fits:
        raise ValueError(
            f"{option(name)} is {_short(value)}; allowed: {'whole numbers, ' * whole}{least} to {most}"
        )
    return number


def _parse_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{option(name)} is {_short(value)}; expected text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{option(name)} is {value!r}, which is not in UTF-8; write it anew, or rename it"
        ) from None
    return value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _check_mode(request: Request) -> None:
    """Raises ValueError unless what is given makes one mode."""
    if request.video and (request.image or request.last_image):
        raise ValueError("--video and --image are two modes; give one of them")
    if request.outpaint and (not request.video or request.mask or request.cinemagraph):
        raise ValueError("--outpaint takes --video, and neither --mask nor --cinemagraph")
    if request.cinemagraph and not (request.image and request.mask):
        raise ValueError(
            "--cinemagraph takes --image, and --mask for the region that moves; give both"
        )
    if request.mask and not (request.image or request.video):
        raise ValueError(
            "--mask takes --image (cinemagraph) or --video (inpainting); give one of them"
        )
    if request.mask and request.last_image:
        raise ValueError("--last-image takes no --mask; leave one of them out")
    if request.strength is not None and request.mode not in ("video_to_video", *FROM_A_PICTURE):
        raise ValueError("--strength is for --video without --mask, or for --image; leave it out")
    if request.alpha is not None and not request.style:
        raise ValueError("--alpha is a style's weight; name one with --style, or leave --alpha out")


def _check_mask(request: Request) -> None:
    if request.box is None:
        return
    x0, y0, x1, y1 = request.box
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(
            f"--mask {request.mask}: a box is x0,y0,x1,y1 in shares of the frame, with 0 <= x0 < x1 <= 1 and "
            "0 <= y0 < y1 <= 1, such as 0.5,0,1,1 for the right half"
        )


def _no_file(name: str, path: Path) -> str:
    if path.is_dir():
        cure = (
            "PNGs are not read as a video, make an mp4 of them first"
            if name == "video"
            else "name a file in it"
        )
        return f"is a folder; {cure}"
    return "no such file" + (
        "; name a picture, a video, or a box x0,y0,x1,y1" if name == "mask" else "; check the path"
    )


def _settings_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a settings file that makes a request."""
    return _parsed({field.name: settings.get(field.name) for field in fields(Request)})


def _meaning_of_strength(request: Request) -> str | None:
    """What may be left behind: the picture, the video, or nothing."""
    if request.mode in FROM_A_PICTURE:
        return "picture"
    return "video" if request.mode == "video_to_video" else None


def _slug(prompt: str) -> str:
    """The first words of a sentence as a part of a file's name."""
    return "-".join(re.findall(r"[a-z0-9]+", prompt.lower())[:6])[:LONGEST_SLUG]

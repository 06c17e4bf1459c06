"""A prompts file: one video per row, in whichever mode.

Columns: `name` (the file's name), `mode`, `prompt`, and where the mode or the row needs them `clip` (a clip of the
training set by id, such as `racehorse@0`, for its first frame or all of it), `mask` (the box to generate as shares of
the frame, `x0,y0,x1,y1`), `style` with `alpha`, and `strength` of video to video.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lumiere.data.tables import read_table
from lumiere.pipelines.inputs import MODES

REQUIRED = ("name", "mode", "prompt")
OPTIONAL = ("clip", "mask", "style", "alpha", "strength")


@dataclass(frozen=True)
class Job:
    """One video to generate; see the module's docstring."""

    name: str
    mode: str
    prompt: str
    clip: str = ""
    mask: tuple[float, float, float, float] | None = None
    style: str = ""
    alpha: float = 0.75
    strength: float = 0.6

    def region(self, height: int, width: int) -> Tensor:
        """The box as a mask (h, w), 1 = generate."""
        assert self.mask is not None
        x0, y0, x1, y1 = self.mask
        region = torch.zeros(height, width)
        region[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = 1
        return region


def read_jobs(path: str | Path) -> list[Job]:
    """Read and check a prompts file.

    Raises:
        ValueError: naming the file, the line, and what is allowed.
    """
    jobs = [
        _job(f"{path}, line {line}", row)
        for line, row in read_table(Path(path), REQUIRED, OPTIONAL)
    ]
    names = [job.name for job in jobs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path}: name {name!r} stands twice; expected one name per video")
    return jobs


def _job(where: str, values: dict[str, str]) -> Job:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", values["name"]):
        raise ValueError(
            f"{where}: name {values['name']!r}; allowed: letters, digits, '.', '_', '-'"
        )
    if values["mode"] not in MODES:
        raise ValueError(f"{where}: mode {values['mode']!r}; allowed: {', '.join(MODES)}")
    if not values["prompt"]:
        raise ValueError(f"{where}: the prompt is empty; write what to see")
    needed = MODES[values["mode"]]
    if ("image" in needed or "video" in needed) != bool(values["clip"]):
        verb = "needs" if not values["clip"] else "takes no"
        raise ValueError(
            f"{where}: mode {values['mode']} {verb} clip, the id of a clip such as racehorse@0"
        )
    if ("mask" in needed) != bool(values["mask"]):
        verb = "needs" if not values["mask"] else "takes no"
        raise ValueError(
            f"{where}: mode {values['mode']} {verb} mask, a box x0,y0,x1,y1 in shares of the frame"
        )
    return Job(
        name=values["name"],
        mode=values["mode"],
        prompt=values["prompt"],
        clip=values["clip"],
        mask=_box(where, values["mask"]) if values["mask"] else None,
        style=values["style"],
        alpha=_share(where, "alpha", values["alpha"], 0.75),
        strength=_share(where, "strength", values["strength"], 0.6),
    )


def _box(where: str, text: str) -> tuple[float, float, float, float]:
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{where}: mask {text!r}; allowed: four numbers x0,y0,x1,y1") from None
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(
            f"{where}: mask {text!r}; allowed: 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1"
        )
    return x0, y0, x1, y1


def _share(where: str, name: str, text: str, default: float) -> float:
    try:
        value = float(text) if text else default
    except ValueError:
        raise ValueError(f"{where}: {name} {text!r}; allowed: a number from 0 to 1") from None
    if not 0 <= value <= 1:
        raise ValueError(f"{where}: {name} {value}; allowed: 0 to 1")
    return value

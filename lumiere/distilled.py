"""Stores how a distilled network samples, as a small JSON file beside its weights."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumiere.errors import DataError
from lumiere.files import read_json

DISTILLED_FILE = "distilled.json"


@dataclass(frozen=True)
class DistilledSettings:
    """The settings with which a distilled network samples without guidance.

    Attributes:
        num_inference_steps: the number of its steps.
        noise_correlation: between the noise of any two frames, 0 to 1; that of its training.
        timestep_power: of its sampler, at least 1; see `power_timesteps`.
    """

    num_inference_steps: int
    noise_correlation: float
    timestep_power: float = 1.0


def write_distilled(folder: Path, settings: DistilledSettings) -> None:
    """Write the settings of the network in a folder."""
    content = json.dumps(dataclasses.asdict(settings), indent=2)
    (folder / DISTILLED_FILE).write_text(content + "\n", encoding="utf-8")


def read_distilled(folder: Path) -> DistilledSettings:
    """Read the settings that `write_distilled` wrote.

    Raises:
        DataError: if the file is missing or holds anything else.
    """
    path = folder / DISTILLED_FILE
    content = read_json(path)
    steps: Any = content.get("num_inference_steps")
    correlation: Any = content.get("noise_correlation")
    if type(steps) is not int or steps < 1:
        raise DataError(
            f"{path}: num_inference_steps is {steps!r}; expected a whole number above 0"
        )
    power: Any = content.get("timestep_power", 1.0)
    if not _is_number(correlation) or not 0 <= correlation <= 1:
        raise DataError(f"{path}: noise_correlation is {correlation!r}; expected 0 to 1")
    if not _is_number(power) or not power >= 1:
        raise DataError(f"{path}: timestep_power is {power!r}; expected a number from 1 on")
    return DistilledSettings(steps, float(correlation), float(power))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

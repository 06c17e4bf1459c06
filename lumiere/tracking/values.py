"""Turns nested values into what MLflow stores: flat names, texts and finite numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

MAX_LENGTH = 6000  # characters of a param or a tag; MLflow's limit


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping: {"optim": {"steps": 3}} becomes {"optim.steps": 3}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Flatten a nested mapping, and return its finite numbers."""
    return {
        key: float(value)
        for key, value in flatten(values).items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def metric_name(name: str) -> str:
    """Replace what MLflow rejects in the name of a metric, such as `@` and brackets."""
    return re.sub(r"[^\w\-. /:]", "_", name)


def shortened(value: Any) -> str:
    """Return the text of a value, cut at MLflow's limit."""
    return str(value)[:MAX_LENGTH]

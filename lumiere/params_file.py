"""Reads a params file into frozen dataclasses: fields with ranges, strict YAML, and errors that name the key.

Every value is checked before any work starts, because a mistyped key that is silently ignored can
cost a night of training. An error names the file, the key, the value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lumiere.errors import ParamsError, one_line

Config = TypeVar("Config")


def number(
    default: Any,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
) -> Any:
    """Declare a numeric field with an allowed range."""
    return field(
        default=default, metadata={"at_least": at_least, "at_most": at_most, "above": above}
    )


def choice(default: str, *others: str) -> Any:
    """Declare a field that takes one of the given words."""
    return field(default=default, metadata={"choices": (default, *others)})


def read(cls: type[Config], path: Path) -> Config:
    """Read a params file as the dataclass `cls`.

    Raises:
        ParamsError: if the file cannot be read, a section or key is unknown, a key is given twice,
            or a value has a wrong type or is out of range.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ParamsError(
            f"{path}: no such file; run from the project's folder, or name a params file"
        ) from None
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not valid YAML: {one_line(error)}") from None
    try:
        return _build(cls, raw, "")
    except ParamsError as error:
        raise ParamsError(f"{path}: {error}") from None


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses duplicate keys; PyYAML would silently ignore the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [
            key.value
            for key, _ in node.value
            if isinstance(key, yaml.ScalarNode) and key.value != "<<"
        ]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(
                    f"{key}: given {keys.count(key)} times in one mapping; allowed: once"
                )
        return super().construct_mapping(node, deep)


def _build(cls: type, raw: Any, prefix: str) -> Any:
    """Build a dataclass from a mapping; `prefix` is the path of keys so far, for messages."""
    if not isinstance(raw, dict):
        raise ParamsError(
            f"{prefix.rstrip('.') or 'the file'}: {raw!r}; allowed: a mapping of {_names(cls)}"
        )
    hints = typing.get_type_hints(cls)
    for key in raw:
        if key not in hints:
            raise ParamsError(f"{prefix}{key}: unknown key; allowed: {_names(cls)}")
    values = {}
    for item in dataclasses.fields(cls):
        if item.name in raw:
            key = f"{prefix}{item.name}"
            values[item.name] = _convert(hints[item.name], raw[item.name], key)
            _check_range(item.metadata, values[item.name], key)
    try:
        return cls(**values)
    except ParamsError as error:
        raise ParamsError(f"{prefix}{error}") from None


def _names(cls: type) -> str:
    return ", ".join(item.name for item in dataclasses.fields(cls))


def _convert(hint: Any, value: Any, key: str) -> Any:
    """Convert a value to the annotated type, without coercion between numbers, words, lists and mappings."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, f"{key}.")
    if origin in (typing.Union, types.UnionType):
        first, second = typing.get_args(hint)
        if second is types.NoneType:
            return None if value is None else _convert(first, value, key)
        return _convert(second if isinstance(value, list) else first, value, key)
    if origin is tuple:
        if not isinstance(value, list):
            raise ParamsError(f"{key}: {value!r}; allowed: a list")
        entry_hint = typing.get_args(hint)[0]
        return tuple(_convert(entry_hint, entry, f"{key}[{i}]") for i, entry in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ParamsError(f"{key}: {value!r}; allowed: a mapping")
        entry_hint = typing.get_args(hint)[1]
        return {str(k): _convert(entry_hint, entry, f"{key}.{k}") for k, entry in value.items()}
    return _convert_scalar(hint, value, key)


def _convert_scalar(hint: type, value: Any, key: str) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and is_number:
        if not math.isfinite(value):
            raise ParamsError(f"{key}: {value!r}; allowed: a finite number")
        return float(value)
    if hint is float and isinstance(value, str):
        raise ParamsError(
            f"{key}: {value!r}; allowed: a number (YAML reads 1e-3 as text; write 1.0e-3 or 0.001)"
        )
    if type(value) is not hint:
        raise ParamsError(f"{key}: {value!r}; allowed: {hint.__name__}")
    return value


def _check_range(metadata: Mapping[str, Any], value: Any, key: str) -> None:
    """Raise ParamsError unless the value is one of the field's choices, or within its range."""
    if "choices" in metadata and value not in metadata["choices"]:
        raise ParamsError(f"{key}: {value!r}; allowed: {', '.join(metadata['choices'])}")
    if "at_least" not in metadata:
        return
    least, most, above = metadata["at_least"], metadata["at_most"], metadata["above"]
    bounds = []  # (holds, in words)
    if above is not None:
        bounds.append((value > above, f"above {above:g}"))
    if least is not None:
        bounds.append((value >= least, f"at least {least:g}"))
    if most is not None:
        bounds.append((value <= most, f"at most {most:g}"))
    if not all(holds for holds, _ in bounds):
        allowed = ", ".join(words for _, words in bounds)
        raise ParamsError(f"{key}: {value!r}; allowed: {allowed}")

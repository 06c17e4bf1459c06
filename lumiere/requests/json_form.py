"""The JSON form of requests: the sidecar beside each video, which makes the video again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lumiere.modes import (
    check_mode,
    go_together,
    infer_mode,
    sources,
    strength_applies_to,
    subject,
)
from lumiere.requests.request import (
    FILES,
    Request,
    field_names,
    make_request,
    parse_values,
    resolve_mode,
)
from lumiere.version import __version__

EXPECTED = "expected the JSON file that lumiere writes beside a video"
SOURCES = (*FILES, "clip")


def sidecar(request: Request, made: Mapping[str, Any]) -> dict[str, Any]:
    """Make the content of a sidecar.

    Args:
        request: the request for this one video, with the model's settings filled in.
        made: other facts about the video and how it was made.
    """
    return {"lumiere": __version__, **request.as_values(), **made}


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read a sidecar.

    Raises:
        ValueError: if there is no such file, or it is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; {EXPECTED}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: not JSON; {EXPECTED}") from None
    if not _is_sidecar(content):
        raise ValueError(f"{path}: not the settings of a video; {EXPECTED}")
    for name, kind in (
        ("model", str),
        ("fast", bool),
        ("files_sha256", dict),
        ("asked", dict),
    ):
        if not isinstance(content.get(name, kind()), kind):
            raise ValueError(f"{path}: {name} is {content[name]!r}; {EXPECTED}")
    return content


def find_sidecar(path: Path) -> dict[str, Any] | None:
    """Read a sidecar; return None if there is no such file, or it is something else."""
    try:
        return read_sidecar(path)
    except ValueError:
        return None


def change_request(
    content: Mapping[str, Any], changes: Mapping[str, Any]
) -> tuple[Request, list[str]]:
    """Read the request of a sidecar and change some of its fields.

    Args:
        content: the content of a sidecar.
        changes: new values by field of `Request`; empty text clears a field.

    Returns:
        The request, and the fields that were left out because they do not go with the changes.

    Raises:
        ValueError: if a value cannot be used; the message names the field, the value and how to fix
            it.
    """
    old = parse_values({name: content.get(name) for name in field_names() if name != "name"})
    old_mode = resolve_mode(old)
    new = parse_values(changes)
    dropped = _replaced_sources(old, old_mode, new)
    values = {name: value for name, value in old.items() if name not in dropped} | dict(changes)
    values["mode"] = new.get("mode") or _remaining_mode(old_mode, parse_values(values))
    request = make_request({**values, "strength": None, "alpha": None})

    if "video" in new:
        dropped.add("frames")
    dropped |= _outdated_settings(old, old_mode, request)
    dropped -= changes.keys()
    values = {name: value for name, value in values.items() if name not in dropped}
    left_out = [name for name in old if name in dropped]
    if old_mode == "outpainting" and request.mode != "outpainting" and "mode" not in new:
        left_out.append("outpaint")
    return make_request(values), left_out


def _replaced_sources(old: Mapping[str, Any], old_mode: str, new: Mapping[str, Any]) -> set[str]:
    """Return the old sources of pixels that conflict with the new values."""
    replacing = [name for name in SOURCES if name in new]
    dropped = {
        source for source in SOURCES if not all(go_together(source, name) for name in replacing)
    }
    kind = subject(old_mode)
    if "mode" in new:
        check_mode(new["mode"])
        kind = subject(new["mode"])
        dropped |= set(SOURCES) - sources(new["mode"])
    elif "image" in new or "last_image" in new:
        kind = "image"
    elif "video" in new:
        kind = "video"
    if kind != subject(old_mode):
        dropped.add("mask")  # it belongs to the replaced source
        if "mode" not in new:
            dropped.add("clip")
    return dropped & old.keys()


def _outdated_settings(old: Mapping[str, Any], old_mode: str, request: Request) -> set[str]:
    """Return the old settings that have another meaning, or none, in the new request."""
    outdated = set()
    if strength_applies_to(old_mode) != strength_applies_to(request.mode):
        outdated.add("strength")
    if old.get("style") != request.style:
        outdated.add("alpha")
    if subject(old_mode) == "video" and subject(request.mode) != "video":
        outdated.add("frames")  # as many as the old video had
    return outdated


def _remaining_mode(old_mode: str, values: Mapping[str, Any]) -> str | None:
    """Return the old mode if it still fits the inputs, otherwise the mode inferred from them; None
    if no mode fits.
    """
    inputs = {name: values.get(name) for name in FILES}
    role = subject(old_mode)
    if "clip" in values:
        if role is None:
            return None
        inputs[role] = values["clip"]
    for mode in (old_mode, None):
        with suppress(ValueError):
            return infer_mode(mode, **inputs)
    return None


def _is_sidecar(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and "lumiere" in content
        and isinstance(content.get("prompt"), str)
    )

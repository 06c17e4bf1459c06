"""Runs the stages with other params than those of `params.yaml`.

DVC compares the values in `params.yaml`, so a run with other params writes them there and puts the
file back at its end. What the next run makes from the old values comes from DVC's cache, so nothing
is trained again. If a run is killed, the next one puts the file back, and so does `make clean`:
`python -m flows.run_params`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from lumiere.config import Params, load_params
from lumiere.errors import ParamsError, run_program
from lumiere.files import write_atomically
from lumiere.locks import inheritable_lock, make_folder

PROJECT = Path(__file__).resolve().parents[1]
PARAMS = "params.yaml"
BEFORE, CHANGED = Path(".lumiere", "params-before.yaml"), Path(".lumiere", "params-changed.yaml")

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def changed_params(
    root: Path, profile: str = "", overrides: Mapping[str, Any] | None = None
) -> Iterator[Params]:
    """Hold other params in `params.yaml`. Without a profile and overrides, the file stays as it is.

    The caller has the project's lock.

    Args:
        root: the project's folder.
        profile: a params file that replaces `params.yaml`, relative to `root`; by default none.
        overrides: new values by key, such as {"train_base.optim.steps": 100}.

    Yields:
        The params in effect.

    Raises:
        ParamsError: if a file, key or value cannot be used; nothing is changed then.
    """
    restore_params(root)
    path = root / PARAMS
    if not profile and not overrides:
        yield load_params(path)
        return
    changed = render_params(root, profile, overrides or {})
    make_folder((root / CHANGED).parent)
    write_atomically(root / CHANGED, changed)
    params = _load(root / CHANGED, profile or PARAMS)
    write_atomically(root / BEFORE, path.read_bytes())
    write_atomically(path, changed)
    try:
        yield params
    finally:
        restore_params(root)


def check_params(root: Path, profile: str, overrides: Mapping[str, Any]) -> None:
    """Check what `changed_params` would do.

    Raises:
        ParamsError: if a file, key or value cannot be used.
    """
    load_params(root / (profile or PARAMS))
    if overrides:
        make_folder((root / CHANGED).parent)
        checked = root / CHANGED.with_name(f"params-checked-{os.getpid()}.yaml")
        write_atomically(checked, render_params(root, profile, overrides))
        try:
            _load(checked, profile or PARAMS)
        finally:
            checked.unlink()


def restore_params(root: Path) -> None:
    """Put back `params.yaml` after a run that changed it. Keep what a person edited meanwhile."""
    path, before, changed = root / PARAMS, root / BEFORE, root / CHANGED
    if not before.exists():
        return
    if not path.exists() or path.read_bytes() in (changed.read_bytes(), before.read_bytes()):
        os.replace(before, path)
        return
    kept = before.with_name(f"params-before-{time.strftime('%Y%m%d-%H%M%S')}.yaml")
    os.replace(before, kept)
    logger.warning(
        "%s was edited during a run with other params, so it stays as it is; %s is a copy from "
        "before that run",
        path,
        kept,
    )


def render_params(root: Path, profile: str, overrides: Mapping[str, Any]) -> bytes:
    """Return a params file with other values; comments stay.

    Raises:
        ParamsError: if the file cannot be used, or a key has no section.
    """
    path = root / (profile or PARAMS)
    load_params(path)  # its errors name the key and what is allowed
    reader = YAML()
    reader.preserve_quotes = True
    reader.width = 10_000
    content = reader.load(path.read_text(encoding="utf-8")) or {}
    for key, value in overrides.items():
        *sections, name = key.split(".")
        section = content
        for part in sections:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise ParamsError(f"{key}: {part} is a value, not a section of {path}")
        if not sections or not name:
            raise ParamsError(
                f"{key!r} is not a key of {path}; name its section too, as in generate.seed"
            )
        section[name] = value
    stream = io.BytesIO()
    reader.dump(content, stream)
    return stream.getvalue()


def read_override(text: str) -> tuple[str, Any]:
    """Split `generate.seed=3` into the key and the value, which is YAML.

    Raises:
        ParamsError: if it has another form.
    """
    key, is_given, value = text.partition("=")
    try:
        if is_given and key:
            return key, yaml.safe_load(value)
    except yaml.YAMLError:
        pass
    raise ParamsError(f"--set {text!r}: expected KEY=VALUE, as in generate.seed=3")


def _load(path: Path, origin: str) -> Params:
    """Load changed params. The file itself is fine, so an error is about the overrides."""
    try:
        return load_params(path)
    except ParamsError as error:
        told = str(error).replace(str(path), f"overrides (--set) of {origin}", 1)
        raise ParamsError(told) from None


def main(root: Path = PROJECT) -> None:
    """Put `params.yaml` back before `.lumiere/`, which has the earlier file, is deleted.

    Raises:
        LockError: if a run is at work; it reads and writes what would be deleted.
    """
    if not (root / ".lumiere").is_dir():
        return
    busy = "a pipeline run (process {owner}) is at work; end it, or try again when it has ended"
    with inheritable_lock(root / ".lumiere" / "pipeline.lock", 0.0, busy):
        restore_params(root)


if __name__ == "__main__":
    run_program(main)

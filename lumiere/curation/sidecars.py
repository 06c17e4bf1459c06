"""Reads the captions that lie beside the videos, such as `a.txt` or `a.json` beside `a.mp4`.

A text file has one sentence a line. A JSON file holds an object, or a list of objects for several
parts of the video:

    {"caption": "a boat", "captions": ["its sail"], "start": 0.5, "end": 2, "source": "web"}

Each name is optional. All other names are columns of the manifest. If a video has both files, the
sentences of the text file only count if the JSON file is one object without a sentence; they get its
other values.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lumiere.curation.caption_files import OPTIONAL, Cells, cell_text, check_others, parse_json
from lumiere.curation.captions import Caption, make_caption
from lumiere.curation.probe import VIDEO_SUFFIXES
from lumiere.data.remote import RemoteFile, RemoteFolder, file_in, local_copy
from lumiere.errors import DataError

MOST_BYTES = 100_000
SENTENCES = ("caption", "captions")
OWN = (*SENTENCES, *OPTIONAL)
EXPECTED = 'an object such as {"caption": "a boat"}, or a list of them'


def read_sidecars(
    raw: Path | RemoteFolder,
    names: Sequence[str],
    chosen: Container[str],
    has_rows: Container[str] = (),
) -> tuple[dict[str, list[Caption]], list[str]]:
    """Read the captions beside the videos.

    Args:
        raw: the folder of raw videos.
        names: all files in it, relative.
        chosen: those that count; files beside them are read even if they are not among them.
        has_rows: the videos that the table of captions describes; nothing beside them is read.

    Returns:
        The captions by video, and the names of all other files that count.

    Raises:
        DataError: if a file is too large for captions, not in UTF-8, or says something else than is
            expected.
    """
    videos: dict[PurePosixPath, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        if name in chosen and path.suffix.lower() in VIDEO_SUFFIXES:
            videos.setdefault(path.with_suffix(""), []).append(name)
    beside: dict[PurePosixPath, dict[str, str]] = {}
    others = []
    for name in names:
        path = PurePosixPath(name)
        stem, suffix = path.with_suffix(""), path.suffix.lower()
        is_sidecar = stem in videos and suffix in (".txt", ".json")
        if is_sidecar and not path.name.startswith(".") and _is_own_file(raw, name):
            beside.setdefault(stem, {})[suffix] = name
        elif name in chosen:
            others.append(name)
    captions: dict[str, list[Caption]] = {}
    for stem, files in beside.items():
        own = [video for video in videos[stem] if video not in has_rows]
        if own:
            captions |= dict.fromkeys(own, _read(raw, files))
    return captions, others


def _is_own_file(raw: Path | RemoteFolder, name: str) -> bool:
    """Return whether a file lies in the folder itself; opening a pipe would hang."""
    if isinstance(raw, RemoteFolder):
        return True
    return (raw / name).is_file() and not (raw / name).is_symlink()


def _read(raw: Path | RemoteFolder, files: dict[str, str]) -> list[Caption]:
    """Return the captions of a video, each once.

    Args:
        raw: the folder of raw videos.
        files: the names of the files beside the video, by suffix.
    """
    texts = []
    if ".txt" in files:
        texts = _lines(_content(raw, files[".txt"]), _shown(raw, files[".txt"]))
    if ".json" not in files:
        return [Caption(text) for text in texts]
    source = files[".json"]
    where = _shown(raw, source)
    value = parse_json(_content(raw, source), where)
    if isinstance(value, list):
        parts = [_part(part, f"{where}, entry {i}") for i, part in enumerate(value, 1)]
    else:
        sentences, cells = _part(value, where)
        parts = [(sentences or texts, cells)]
    found = [make_caption(text, cells, source) for own, cells in parts for text in own]
    return [caption for i, caption in enumerate(found) if caption not in found[:i]]


def _part(value: Any, where: str) -> tuple[list[str], Cells]:
    """Return the sentences of an object, and its other values as text."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: no object; expected {EXPECTED}")
    for name in value:
        if name not in OWN and name.strip().lower() in OWN:
            raise DataError(f"{where}: {name!r} is probably {name.strip().lower()!r}; rename it")
    check_others(value, OWN, where)
    several = value.get("captions")
    if several is not None and not isinstance(several, list):
        raise DataError(f"{where}: captions is {several!r}; expected a list of sentences")
    sentences = [value.get("caption"), *(several or [])]
    for sentence in sentences:
        if not isinstance(sentence, str | None):
            raise DataError(f"{where}: a caption is {sentence!r}; expected text")
    texts = [" ".join(cell_text(text, "caption", where).split()) for text in sentences]
    cells = {
        name: cell_text(cell, name, where) for name, cell in value.items() if name not in SENTENCES
    }
    return [text for text in texts if text], cells


def _lines(content: bytes, where: str) -> list[str]:
    """Return the lines of a text file that hold something, each once."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{where}: not in UTF-8; save the file in that encoding") from None
    if "\0" in text:
        raise DataError(f"{where}: holds a NUL character; delete it")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return list(dict.fromkeys(line for line in lines if line))


def _shown(raw: Path | RemoteFolder, name: str) -> str:
    """Return a file's name for messages."""
    return f"{raw if isinstance(raw, Path) else raw.url}/{name}"


def _content(raw: Path | RemoteFolder, name: str) -> bytes:
    """Read a file that holds captions."""
    shown = _shown(raw, name)
    file: Path | RemoteFile = file_in(raw, name)
    try:
        path = local_copy(file)
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{shown}: more than {MOST_BYTES:,} bytes; are these captions?")
        return path.read_bytes()
    except OSError as error:
        if isinstance(file, Path):
            cure = "let this user read it"
            raise DataError(f"{shown}: cannot be read: {error.strerror or error}", cure) from None
        cure = "check the network, and run the stage again"
        raise DataError(f"{shown}: cannot be fetched: {error.strerror or error}", cure) from None

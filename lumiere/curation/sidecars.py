"""Reads the captions that lie beside the videos, such as `a.txt` or `a.json` beside `a.mp4`.

A text file has one sentence a line. A JSON file holds an object, or a list of objects for several
parts of the video:

    {"caption": "a boat", "captions": ["its sail"], "start": 0.5, "end": 2, "source": "web"}

Each name is optional. All other names are columns of the manifest. If a video has both files, the
sentences of the text file only count if the JSON file is one object without a sentence; they get its
other values.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lumiere.curation.caption_files import OPTIONAL, Cells, cell_text, check_others, parse_json
from lumiere.curation.captions import Caption, add_caption, make_caption
from lumiere.curation.probe import VIDEO_SUFFIXES
from lumiere.data.remote import FETCH_AGAIN, RemoteFolder, fetch_file
from lumiere.data.workers import Failure, run_tasks
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
    workers: int = 1,
    timeout_s: float = 60.0,
) -> tuple[dict[str, list[Caption]], list[str], set[str]]:
    """Read the captions beside the videos.

    Args:
        raw: the folder of raw videos.
        names: all files in it, relative.
        chosen: those that count; files beside them are read even if they are not among them.
        has_rows: the videos that the table of captions describes; nothing beside them is read.
        workers, timeout_s: how many processes fetch files of a remote folder, and the limit for a
            file without progress.

    Returns:
        The captions by video, the names of all other files that count, and those of the videos
        whose captions could not be fetched within the limit.

    Raises:
        DataError: if a file is too large for captions, not in UTF-8, or says something else than is
            expected.
    """
    videos = _videos_by_stem(names, chosen)
    beside: dict[PurePosixPath, dict[str, str]] = {}
    others = []
    for name in names:
        path = PurePosixPath(name)
        stem = path.with_suffix("")
        if stem in videos and _is_sidecar(raw, path):
            beside.setdefault(stem, {})[path.suffix.lower()] = name
        elif name in chosen:
            others.append(name)
    described = {
        stem: [video for video in videos[stem] if video not in has_rows] for stem in beside
    }
    to_read = [name for stem, files in beside.items() if described[stem] for name in files.values()]
    files_of, late = _local_files(raw, to_read, workers, timeout_s)
    captions: dict[str, list[Caption]] = {}
    without: set[str] = set()
    for stem, files in beside.items():
        if late & set(files.values()):
            without |= set(described[stem])
        elif described[stem]:
            captions |= dict.fromkeys(described[stem], _read(raw, files, files_of))
    return captions, others, without


def _videos_by_stem(
    names: Sequence[str], selected: Container[str]
) -> dict[PurePosixPath, list[str]]:
    """Return the videos that count, by their paths without a suffix."""
    videos: dict[PurePosixPath, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        if name in selected and path.suffix.lower() in VIDEO_SUFFIXES:
            videos.setdefault(path.with_suffix(""), []).append(name)
    return videos


def _is_sidecar(raw: Path | RemoteFolder, path: PurePosixPath) -> bool:
    """Return whether a file beside a video may hold its captions."""
    has_suffix = path.suffix.lower() in (".txt", ".json")
    return has_suffix and not path.name.startswith(".") and _is_own_file(raw, str(path))


def _local_files(
    raw: Path | RemoteFolder, names: list[str], workers: int, timeout_s: float
) -> tuple[dict[str, Path], set[str]]:
    """Return the paths of files on this machine, and the names of those that did not come in time.

    Raises:
        DataError: if one cannot be fetched for another reason.
    """
    if isinstance(raw, Path):
        return {name: raw / name for name in names}, set()
    paths: dict[str, Path] = {}
    late = set()
    for i, outcome in run_tasks(fetch_file, [(raw, name) for name in names], workers, timeout_s):
        if not isinstance(outcome, Failure):
            paths[names[i]] = outcome
        elif outcome.kind == "timeout" or isinstance(outcome.error, TimeoutError):
            late.add(names[i])
        else:
            problem = f"{_shown(raw, names[i])}: cannot be fetched: {outcome.detail}"
            raise DataError(problem, FETCH_AGAIN)
    return paths, late


def _is_own_file(raw: Path | RemoteFolder, name: str) -> bool:
    """Return whether a file lies in the folder itself; opening a pipe would hang."""
    if isinstance(raw, RemoteFolder):
        return True
    return (raw / name).is_file() and not (raw / name).is_symlink()


def _read(
    raw: Path | RemoteFolder, files: dict[str, str], paths: Mapping[str, Path]
) -> list[Caption]:
    """Return the captions of a video, each once.

    Args:
        raw: the folder of raw videos.
        files: the names of the files beside the video, by suffix.
        paths: where files are on this machine, by name.
    """
    texts = []
    if ".txt" in files:
        where = _shown(raw, files[".txt"])
        texts = _lines(_content(paths[files[".txt"]], where), where)
    if ".json" not in files:
        return [Caption(text) for text in texts]
    source = files[".json"]
    where = _shown(raw, source)
    value = parse_json(_content(paths[source], where), where)
    if isinstance(value, list):
        parts = [_part(part, f"{where}, entry {i}") for i, part in enumerate(value, 1)]
    else:
        sentences, cells = _part(value, where)
        parts = [(sentences or texts, cells)]
    captions: list[Caption] = []
    for own, cells in parts:
        for text in own:
            add_caption(captions, make_caption(text, cells, source), source)
    return captions


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


def _content(path: Path, where: str) -> bytes:
    """Read a file that holds captions."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{where}: more than {MOST_BYTES:,} bytes; are these captions?")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror or error}") from None

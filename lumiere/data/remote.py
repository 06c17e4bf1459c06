"""Lists the raw videos in an object store, and fetches each when it is read.

A video is fetched once for each version of it. Its copy lies in a cache under the hash of its
address and of the tag that the store gives to its content, so hashes, decoders and seeking work as
for any local file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.utils import glob_translate

from lumiere.data.workers import Failure, report_progress, run_tasks
from lumiere.errors import DataError, FetchError, first_line

CHUNK = 4 << 20  # bytes; progress is reported after each
TAGS = ("ETag", "etag", "md5Hash", "checksum")  # what stores call the tag of a content
LOCAL_SCHEMES = ("file://", "local://")
LIST_AGAIN = "check the store and the network; if it holds very many files, raise curate.timeout_s"
LIST_LESS = "the list may be too long for this machine's memory; name a folder with fewer files"
FETCH_AGAIN = "check the network, and run the stage again; what is done is kept"
TRIES, PAUSE_S = 3, 1.0  # to fetch a file, and between the first two tries; twice as long after
WILDCARDS = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class RemoteFolder:
    """A folder that fsspec reads.

    Attributes:
        url: its address, such as `s3://bucket/videos`.
        cache: a local folder for copies.
    """

    url: str
    cache: Path

    def names(self) -> list[str]:
        """List all files below it, relative and sorted.

        Raises:
            DataError: if it cannot be listed.
        """
        try:
            files, root = _open(self.url)
            paths = files.find(root)
        except Exception as error:  # each store has errors of its own
            cure = "check the address, the network and the credentials"
            raise DataError(f"{self.url}: cannot be listed: {_reason(error)}", cure) from None
        prefix = root.rstrip("/") + "/"
        return sorted(path.removeprefix(prefix) for path in paths if path.startswith(prefix))

    def fetch(self, name: str) -> Path:
        """Return a local copy of a file, if necessary after some tries.

        Raises:
            TimeoutError: if the store sends nothing for as long as its client waits.
            OSError: if it cannot be fetched for another reason.
        """
        for number in range(1, TRIES):
            try:
                return self._fetch_once(name)
            except (FileNotFoundError, PermissionError):
                raise
            except TimeoutError:
                time.sleep(PAUSE_S * number)  # no progress, so that the worker's limit counts it
            except OSError:
                time.sleep(PAUSE_S * number)
                report_progress()
        return self._fetch_once(name)

    def _fetch_once(self, name: str) -> Path:
        try:
            files, root = _open(self.url)
            path = f"{root.rstrip('/')}/{name}"
            facts = files.info(path)
            copy = self._place(name, _tag(facts))
            if not copy.is_file():
                _fetch(files, path, copy, facts.get("size"))
            return copy
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # each store has errors of its own
            silent = _is_silent(error)
            if isinstance(error, OSError) and silent == isinstance(error, TimeoutError):
                raise
            kind = TimeoutError if silent else OSError
            raise kind(0, _reason(error), f"{self.url}/{name}") from error

    def _place(self, name: str, tag: str) -> Path:
        key = hashlib.sha256(f"{self.url}\n{name}\n{tag}".encode(errors="surrogatepass"))
        suffix = PurePosixPath(name).suffix.lower()
        return self.cache / key.hexdigest()[:2] / f"{key.hexdigest()[2:34]}{suffix}"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a remote folder, which is fetched where it is read."""

    folder: RemoteFolder
    name: str

    def fetch(self) -> Path:
        """See `RemoteFolder.fetch`."""
        return self.folder.fetch(self.name)


def _is_silent(error: Exception) -> bool:
    """Return whether a store that was reached sent nothing for too long. A store that cannot be
    reached is a fault of the network, not of the file.
    """
    errors: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in errors:
        errors.append(each)
        each = each.__cause__ or each.__context__
    if any(_is_of_connecting(each) for each in errors):
        return False
    return any(isinstance(each, TimeoutError) or "Timeout" in _name(each) for each in errors)


def _is_of_connecting(error: BaseException) -> bool:
    name = _name(error)
    if name == "ConnectionError":  # of requests, also when an answer breaks off
        return False
    # Azure's ServiceRequestTimeoutError is a request that could not be sent.
    is_refused = "Connect" in name or "ServiceRequest" in name
    return is_refused or getattr(error, "errno", None) == errno.ETIMEDOUT


def _name(error: BaseException) -> str:
    return type(error).__name__


def list_names(folder: RemoteFolder, timeout_s: float) -> list[str]:
    """List all files below a folder in a worker process, which is killed if the store hangs.

    Args:
        folder: what to list.
        timeout_s: the limit for the whole list, in wall-clock seconds. The stores' clients tell
            nothing of the pages that have come.

    Raises:
        DataError: if it cannot be listed within the limit.
    """
    [(_, outcome)] = run_tasks(RemoteFolder.names, [(folder,)], 1, timeout_s)
    if not isinstance(outcome, Failure):
        return outcome
    if isinstance(outcome.error, DataError):
        raise outcome.error
    if outcome.kind == "timeout":
        problem = f"{folder.url}: the list of its files did not come within {timeout_s:g} s"
        raise DataError(problem, LIST_AGAIN)
    cure = FETCH_AGAIN if outcome.kind == "error" else LIST_LESS
    raise DataError(f"{folder.url}: cannot be listed: {outcome.detail}", cure)


def fetch_file(folder: RemoteFolder, name: str) -> Path:
    """Fetch a file in a worker process, which is killed if the store hangs.

    Raises:
        TimeoutError: if the store sends nothing for as long as its client waits.
        FetchError: if it cannot be fetched for another reason.
    """
    try:
        return folder.fetch(name)
    except TimeoutError:
        raise
    except OSError as error:
        raise FetchError(f"{name}: cannot be fetched: {error.strerror or error}") from None


def not_fetched(problems: Sequence[str]) -> DataError:
    """Return the error that counts the videos that cannot be fetched, and quotes one of them."""
    others = f"{len(problems)} videos, such as " if len(problems) > 1 else ""
    return DataError(f"{others}{min(problems)}", FETCH_AGAIN)


def split_source(text: str, cache: Path) -> tuple[Path | RemoteFolder, str]:
    """Divide the address of raw videos into the folder, and the pattern of names within it.

    Args:
        text: a folder, a glob such as `raw/2024-*/**/*.mp4`, or an address that fsspec reads, such
            as `s3://bucket/videos`, with or without wildcards.
        cache: a local folder for copies of remote files.

    Returns:
        The folder, and the pattern; empty for all names.
    """
    for scheme in LOCAL_SCHEMES:  # so that links and pipes are checked
        text = text.removeprefix(scheme)
    is_remote = "://" in text
    if not is_remote and (not WILDCARDS.search(text) or Path(text).is_dir()):
        return Path(text), ""
    parts = text.split("/")
    count = next((i for i, part in enumerate(parts) if WILDCARDS.search(part)), len(parts))
    folder, pattern = "/".join(parts[:count]), "/".join(parts[count:])
    if is_remote:
        return RemoteFolder(folder, cache), pattern
    return Path(folder or ("/" if text.startswith("/") else ".")), pattern


def matching(names: Sequence[str], pattern: str) -> list[str]:
    """Return the names that a pattern matches: `*` within a folder, `**` over folders; all if the
    pattern is empty.
    """
    if not pattern:
        return list(names)
    expression = re.compile(glob_translate(pattern))
    return [name for name in names if expression.match(name)]


def file_in(raw: Path | RemoteFolder, name: str) -> Path | RemoteFile:
    """Return a file of a raw folder, without looking at it."""
    return RemoteFile(raw, name) if isinstance(raw, RemoteFolder) else raw / name


def local_copy(file: Path | RemoteFile) -> Path:
    """Return the path of a file on this machine.

    Raises:
        OSError: if it cannot be fetched.
    """
    return file.fetch() if isinstance(file, RemoteFile) else file


def _open(url: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it."""
    files, root = fsspec.core.url_to_fs(url)
    files.invalidate_cache()  # a listing from before says nothing about now
    return files, root


def _tag(facts: dict[str, Any]) -> str:
    """Return a tag that changes with the content of a file."""
    for name in TAGS:
        if facts.get(name):
            return str(facts[name])
    times = {
        key: facts[key]
        for key in ("mtime", "last_modified", "LastModified", "created")
        if key in facts
    }
    return f"{facts.get('size')} {times}"


def _fetch(files: Any, path: str, copy: Path, size: int | None) -> None:
    """Copy a file, and put it in place when it is whole."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    temporary = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
    try:
        # Some stores read 50 MB ahead, and nothing reports progress meanwhile.
        with files.open(path, "rb", block_size=CHUNK) as source, temporary.open("wb") as target:
            for chunk in _chunks(source):
                target.write(chunk)
        num_bytes = temporary.stat().st_size
        if size is not None and num_bytes != size:
            raise OSError(0, f"{num_bytes} of {size} bytes came", path)
        os.replace(temporary, copy)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _chunks(source: Any) -> Iterator[bytes]:
    while chunk := source.read(CHUNK):
        report_progress()
        yield chunk


def _reason(error: Exception) -> str:
    return first_line(error) or type(error).__name__

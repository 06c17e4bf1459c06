"""Writes and reads WebDataset-style tar shards with an index; equal samples give equal bytes.

A sample has three members: `<key>.json`, `<key>.text.npz` (caption embeddings) and
`<key>.video.npz` (frames). Each frame is an array of its own, `00000`, `00001`, ..., so that some
can be read without the others. `index.json` holds the offset and size of each member, so that no
tar has to be scanned, and the size and SHA-256 of each shard.
`null_text.npz` holds the embedding of the empty sentence, for classifier-free guidance.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lumiere.data import clip_index
from lumiere.errors import DataError, first_line
from lumiere.files import is_file, raise_machine_error, read_json

INDEX = "index.json"
NULL_TEXT = "null_text.npz"
FORMAT, MAPPED_FORMAT = 2, 3
ALL = slice(None)


@dataclass(frozen=True)
class Sample:
    """The content of one key of a shard.

    Attributes:
        video: frames packed by `pack_frames`; packing takes longest, so the process that cuts a
            window does it.
        prompt_embeds: float16 (k, n, d), one row per caption.
        prompt_mask: uint8 (k, n), 1 = attend.
        info: clip_id, video, start, captions, fps, and others, if the table of captions has other
            columns: one value per caption, by column.
        bucket: the number of its size, if clips have several.
    """

    video: bytes
    prompt_embeds: np.ndarray
    prompt_mask: np.ndarray
    info: dict[str, Any]
    bucket: int | None = None


@dataclass(frozen=True)
class Split:
    """A split in the index.

    Attributes:
        entries: where each sample lies.
        shards: {"size": bytes, "sha256": hexadecimal} of each shard, by name; if clips have several
            sizes, also the "bucket" of all its clips.
    """

    entries: list[dict[str, Any]]
    shards: dict[str, dict[str, Any]]


def write_shards(folder: Path, split: str, samples: Iterable[Sample], per_shard: int) -> Split:
    """Write `<split>-00000.tar`, ... in the given order."""
    written = Split([], {})
    for shard, group in enumerate(_groups(samples, per_shard)):
        name = f"{split}-{shard:05d}.tar"
        with open(folder / name, "wb") as file:
            hashed = _HashedFile(file)
            with tarfile.open(fileobj=hashed, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
                for sample in group:
                    written.entries.append(_write_sample(tar, name, len(written.entries), sample))
            written.shards[name] = {"size": file.tell(), "sha256": hashed.sha256.hexdigest()}
            if group[0].bucket is not None:
                written.shards[name]["bucket"] = group[0].bucket
    return written


def write_index(folder: Path, splits: Mapping[str, Split], **settings: Any) -> None:
    """Write `index.json`: the entries of the splits, and what all clips share (fps, num_frames,
    text_encoder, ...). The entries of many clips are files of their own, see `clip_index`.
    """
    index: dict[str, Any] = {**settings, "format": FORMAT}
    if sum(len(split.entries) for split in splits.values()) > clip_index.MOST_IN_JSON:
        index["format"] = MAPPED_FORMAT
        index["splits"] = {
            name: clip_index.write_tables(folder, name, split.entries, split.shards)
            for name, split in splits.items()
        }
    else:
        index["shards"] = {
            name: about for split in splits.values() for name, about in split.shards.items()
        }
        index["splits"] = {name: split.entries for name, split in splits.items()}
    text = json.dumps(index, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def write_null_text(folder: Path, prompt_embeds: np.ndarray, prompt_mask: np.ndarray) -> None:
    """Write `null_text.npz`: the empty sentence's states, float16 (n, d), and mask, uint8 (n,)."""
    (folder / NULL_TEXT).write_bytes(
        pack_arrays(prompt_embeds=prompt_embeds, prompt_mask=prompt_mask)
    )


def read_null_text(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read what `write_null_text` wrote.

    Raises:
        DataError: if the file is missing.
    """
    path = folder / NULL_TEXT
    if not is_file(path):
        raise DataError(f"{path}: no such file", cure="run the decode stage again")
    arrays = unpack_arrays(path.read_bytes())
    return arrays["prompt_embeds"], arrays["prompt_mask"]


def read_index(folder: str | Path) -> dict[str, Any]:
    """Read the index of a folder of shards.

    Raises:
        DataError: if the folder holds no finished shards, or shards in an older format.
    """
    path = Path(folder) / INDEX
    if not is_file(path):
        raise DataError(f"{path}: no such file", cure="run the decode stage first")
    index = read_json(path)
    if index.get("format") not in (FORMAT, MAPPED_FORMAT):
        problem = f"{path}: clips in another format than this version reads"
        raise DataError(problem, cure="run the decode stage again")
    return index


def shard_names(folder: Path) -> set[str]:
    """Return the names of the shards whose hashes are in the folder's index; none if the folder
    holds something else.
    """
    try:
        index = read_index(folder)
        if index["format"] == FORMAT:
            return set(index["shards"])
        tables = [clip_index.read_table(folder, split, "shards") for split in index["splits"]]
        return {name for table in tables for name in table["name"].to_pylist()}
    except DataError:
        return set()


def entries_of(folder: Path, index: Mapping[str, Any], split: str) -> Sequence[dict[str, Any]]:
    """Return the entries of a split, and check its shards, if they are in `index.json`.

    Raises:
        DataError: if a shard is missing or of another size, or a file of the index is missing.
    """
    own = index["splits"][split]
    if index["format"] == MAPPED_FORMAT:
        for name in ("clips", "shards"):
            if not is_file(path := folder / f"{split}.{name}.arrow"):
                raise DataError(f"{path}: no such file", cure="run the decode stage again")
        return clip_index.MappedEntries(folder, split, own["num_clips"])
    names = dict.fromkeys(entry["tar"] for entry in own)
    check_shards(folder, {name: index["shards"][name] for name in names})
    return own


def check_shards(folder: Path, shards: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare the sizes of the shards with those in the index.

    Raises:
        DataError: if a shard is missing or of another size.
    """
    for name, about in shards.items():
        try:
            present = f"{(folder / name).stat().st_size} bytes"
        except FileNotFoundError:
            present = "no such file"
        expected = f"{about['size']} bytes"
        if present != expected:
            problem = f"{folder / name}: {present}; by {INDEX} {expected}"
            raise DataError(problem, cure="run the decode stage again")


# Each read opens the tar file again, which is safe in forked and threaded loaders. A shard that
# cannot be read raises a DataError.


def read_info(folder: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Read the `info` of a sample, given its entry in the index."""
    with _named(folder / entry["tar"]):
        return json.loads(_read_member(folder, entry, "json"))


def read_text(folder: Path, entry: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Read the `prompt_embeds` and `prompt_mask` of a sample."""
    with _named(folder / entry["tar"]):
        arrays = unpack_arrays(_read_member(folder, entry, "text.npz"))
    return arrays["prompt_embeds"], arrays["prompt_mask"]


def read_frames(folder: Path, entry: Mapping[str, Any], frames: slice = ALL) -> np.ndarray:
    """Read the frames of a sample, or a slice of them, uint8 (t, h, w, c), without reading the
    others.
    """
    path = folder / entry["tar"]
    with (
        _named(path),
        open(path, "rb", buffering=0) as file,
        zipfile.ZipFile(_Part(file.fileno(), *entry["members"]["video.npz"])) as archive,
    ):
        arrays = (io.BytesIO(archive.read(name)) for name in archive.namelist()[frames])
        return np.stack([np.load(array, allow_pickle=False) for array in arrays])


def pack_frames(frames: np.ndarray) -> bytes:
    """Pack frames, uint8 (t, h, w, c), so that `read_frames` can read some without the others."""
    return pack_arrays(**{f"{i:05d}": frame for i, frame in enumerate(frames)})


def pack_arrays(**arrays: np.ndarray) -> bytes:
    """Pack arrays as a compressed npz; equal arrays give equal bytes, because NumPy writes a fixed time."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Undo `pack_arrays`; pickled objects are refused."""
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


class _HashedFile:
    """A file that is hashed while it is written from beginning to end."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return self.file.write(content)

    def tell(self) -> int:
        return self.file.tell()


class _Part(io.RawIOBase):
    """A part of an open file, which can be read like a file of its own."""

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self.descriptor, self.offset, self.size, self.position = descriptor, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origins = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}
        self.position = offset + origins[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self.size - self.position)]
        count = os.preadv(self.descriptor, [view], self.offset + self.position)
        self.position += count
        return count


@contextmanager
def _named(shard: Path) -> Iterator[None]:
    """Turn an error in reading a shard into a DataError that names the file, or into a DiskError if
    the file itself may be whole.
    """
    try:
        yield
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise_machine_error(error, shard)
        problem = f"{shard}: cannot be read: {first_line(error)}"
        raise DataError(problem, cure="run the decode stage again") from None


def _read_member(folder: Path, entry: Mapping[str, Any], suffix: str) -> bytes:
    offset, size = entry["members"][suffix]
    with open(folder / entry["tar"], "rb") as file:
        return os.pread(file.fileno(), size, offset)


def _write_sample(tar: tarfile.TarFile, shard: str, number: int, sample: Sample) -> dict[str, Any]:
    """Add the members of a sample to its shard, and return its entry in the index."""
    # The key is a number, because WebDataset ends a key at the first dot, and clip ids may contain
    # dots.
    key = f"{number:06d}"
    members = {}
    for suffix, content in _members(sample):
        members[suffix] = [tar.offset + tarfile.BLOCKSIZE, len(content)]
        tar.addfile(_tar_info(f"{key}.{suffix}", len(content)), io.BytesIO(content))
    return {"key": key, "clip_id": sample.info["clip_id"], "tar": shard, "members": members}


def _members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    yield "json", json.dumps(sample.info, sort_keys=True, ensure_ascii=False).encode()
    yield (
        "text.npz",
        pack_arrays(prompt_embeds=sample.prompt_embeds, prompt_mask=sample.prompt_mask),
    )
    yield "video.npz", sample.video


def _tar_info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)  # mtime, uid and gid are 0, and the names of the owner empty
    info.size, info.mode = size, 0o644
    return info


def _groups(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    group: list[Sample] = []
    for sample in samples:
        if group and (len(group) == size or sample.bucket != group[0].bucket):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group

"""WebDataset-style tar shards with an index, byte-stable: fixed times, owners and modes, members in order.

A sample is three members: `<key>.video.npz` (frames), `<key>.text.npz` (caption embeddings), `<key>.json`.
`index.json` keeps each member's offset and size, so that any sample is one read away without a tar scan.
`null_text.npz` holds the states of the empty sentence, for classifier-free guidance.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

INDEX = "index.json"
NULL_TEXT = "null_text.npz"


@dataclass(frozen=True)
class Sample:
    """What one key of a shard holds.

    Attributes:
        video: `pack_arrays(frames=uint8 (t, h, w, c))`, packed where it was cut, since that takes longest.
        prompt_embeds: float16 (k, n, d), one row per caption.
        prompt_mask: uint8 (k, n), 1 = attend.
        info: clip_id, video, start, captions, fps.
    """

    video: bytes
    prompt_embeds: np.ndarray
    prompt_mask: np.ndarray
    info: dict[str, Any]

    @property
    def frames(self) -> np.ndarray:
        """uint8 (t, h, w, c)."""
        return unpack_arrays(self.video)["frames"]


def write_shards(folder: Path, split: str, samples: Iterable[Sample], per_shard: int) -> list[dict[str, Any]]:
    """Writes `<split>-00000.tar`, ... in the order given; returns the split's entries for the index."""
    entries: list[dict[str, Any]] = []
    for shard, group in enumerate(_groups(samples, per_shard)):
        name = f"{split}-{shard:05d}.tar"
        with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in group:
                # A number, since WebDataset cuts a key at the first dot and clip ids may hold one.
                key = f"{len(entries):06d}"
                members = {}
                for suffix, content in _members(sample):
                    offset = tar.offset + tarfile.BLOCKSIZE
                    tar.addfile(_tar_info(f"{key}.{suffix}", len(content)), io.BytesIO(content))
                    members[suffix] = [offset, len(content)]
                entries.append({"key": key, "clip_id": sample.info["clip_id"], "tar": name, "members": members})
    return entries


def write_index(folder: Path, splits: dict[str, list[dict[str, Any]]], **settings: Any) -> None:
    """`index.json`: the splits' entries and what all clips share (fps, num_frames, size, text_encoder, ...)."""
    text = json.dumps({**settings, "splits": splits}, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def write_null_text(folder: Path, prompt_embeds: np.ndarray, prompt_mask: np.ndarray) -> None:
    """`null_text.npz`: the empty sentence's states float16 (n, d) and mask uint8 (n,)."""
    (folder / NULL_TEXT).write_bytes(pack_arrays(prompt_embeds=prompt_embeds, prompt_mask=prompt_mask))


def read_null_text(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `write_null_text`.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = folder / NULL_TEXT
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run the decode stage again")
    arrays = unpack_arrays(path.read_bytes())
    return arrays["prompt_embeds"], arrays["prompt_mask"]


def read_index(folder: str | Path) -> dict[str, Any]:
    """The index of a folder of shards.

    Raises:
        FileNotFoundError: if the folder holds no finished shards.
    """
    path = Path(folder) / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run the decode stage first")
    return json.loads(path.read_text(encoding="utf-8"))


def read_sample(folder: str | Path, entry: dict[str, Any]) -> Sample:
    """One sample by its index entry; opens the tar anew, so that it is safe in forked and threaded loaders."""
    with open(Path(folder) / entry["tar"], "rb") as file:
        content = {suffix: os.pread(file.fileno(), size, offset) for suffix, (offset, size) in entry["members"].items()}
    text = unpack_arrays(content["text.npz"])
    return Sample(
        video=content["video.npz"],
        prompt_embeds=text["prompt_embeds"],
        prompt_mask=text["prompt_mask"],
        info=json.loads(content["json"]),
    )


def pack_arrays(**arrays: np.ndarray) -> bytes:
    """Arrays as a compressed npz; NumPy gives its members a fixed time, so equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack_arrays(content: bytes) -> dict[str, np.ndarray]:
    """The inverse of `pack_arrays`; pickled objects are refused."""
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    yield "json", json.dumps(sample.info, sort_keys=True, ensure_ascii=False).encode()
    yield "text.npz", pack_arrays(prompt_embeds=sample.prompt_embeds, prompt_mask=sample.prompt_mask)
    yield "video.npz", sample.video


def _tar_info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)  # mtime, uid and gid are 0, the owner's names empty
    info.size, info.mode = size, 0o644
    return info


def _groups(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    group: list[Sample] = []
    for sample in samples:
        group.append(sample)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group

"""Writes the index of many decoded clips as Arrow files, and maps it into memory to read it.

`index.json` lists the clips of small sets, for people to read. With more than `MOST_IN_JSON` clips
it only names two files for each split: `<split>.clips.arrow` has a row for each clip, and
`<split>.shards.arrow` one for each shard. Opening them takes the same time for any number of clips.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
import pyarrow.compute as pc

MOST_IN_JSON = 10_000  # clips of all splits
MEMBERS = ("json", "text.npz", "video.npz")
BLOCK = 4096  # rows that are turned into Python values at a time

CLIPS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("shard", pa.int64()),  # the row of the shards' file
        *((f"{name} {part}", pa.int64()) for name in MEMBERS for part in ("offset", "size")),
    ]
)
SHARDS = pa.schema([("name", pa.string()), ("size", pa.int64()), ("sha256", pa.string())])
BUCKET = pa.field("bucket", pa.int64())  # of shards, if clips have several sizes

Entry = dict[str, Any]


def write_tables(
    folder: Path, split: str, entries: Sequence[Entry], shards: Mapping[str, Entry]
) -> dict[str, Any]:
    """Write the two files of a split.

    Returns:
        What `index.json` says of the split: the number of clips, and the hashes of the files.
    """
    rows = {name: row for row, name in enumerate(shards)}
    columns: dict[str, list[Any]] = {name: [] for name in CLIPS.names}
    for entry in entries:
        columns["clip_id"].append(entry["clip_id"])
        columns["shard"].append(rows[entry["tar"]])
        for name in MEMBERS:
            for part, value in zip(("offset", "size"), entry["members"][name], strict=True):
                columns[f"{name} {part}"].append(value)
    about = [{"name": name, **facts} for name, facts in shards.items()]
    has_buckets = any(BUCKET.name in facts for facts in about)
    schema = SHARDS.append(BUCKET) if has_buckets else SHARDS
    tables = {
        "clips": pa.table(columns, schema=CLIPS),
        "shards": pa.Table.from_pylist(about, schema=schema),
    }
    return {"num_clips": len(entries)} | {
        name: _write(folder / f"{split}.{name}.arrow", table) for name, table in tables.items()
    }


class MappedEntries(Sequence[Entry]):
    """The entries of a split, which are like those of `index.json`. It can be forked and pickled.

    Args:
        folder: the folder of the shards.
        split: the name of the split.
        num_clips: how many clips it has.
    """

    def __init__(self, folder: Path, split: str, num_clips: int) -> None:
        self._folder, self._split, self._num_clips = folder, split, num_clips
        self._tables: dict[str, pa.Table] = {}
        self._checked: set[int] = set()

    def __len__(self) -> int:
        return self._num_clips

    @overload
    def __getitem__(self, place: int) -> Entry: ...

    @overload
    def __getitem__(self, place: slice) -> list[Entry]: ...

    def __getitem__(self, place: int | slice) -> Entry | list[Entry]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]  # a negative one counts from the end
        return self._entries(place, 1)[0]

    def __iter__(self) -> Iterator[Entry]:
        for start in range(0, len(self), BLOCK):
            yield from self._entries(start, BLOCK)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}}  # else the files would be copied

    def tars(self) -> list[str]:
        """Return the name of the shard of each clip."""
        names = self._table("shards")["name"]
        return pc.take(names, self._table("clips")["shard"]).to_pylist()

    def buckets(self) -> list[int]:
        """Return the number of the size of each clip; only with several sizes."""
        if not len(self):
            return []
        buckets = self._table("shards")[BUCKET.name]
        return pc.take(buckets, self._table("clips")["shard"]).to_pylist()

    def text_bytes(self) -> int:
        """Return the size of all stored texts."""
        return pc.sum(self._table("clips")["text.npz size"]).as_py() or 0

    def shard_of(self, place: int) -> dict[str, Entry]:
        """Return the size and the hash of a clip's shard, by its name; nothing the second time."""
        row = self._table("clips")["shard"][place].as_py()
        if row in self._checked:
            return {}
        self._checked.add(row)
        facts = self._table("shards").slice(row, 1).to_pylist()[0]
        return {facts.pop("name"): facts}

    def _entries(self, start: int, count: int) -> list[Entry]:
        rows = self._table("clips").slice(start, count).to_pylist()
        names = self._table("shards")["name"]
        return [
            {
                "key": f"{start + i:06d}",
                "clip_id": row["clip_id"],
                "tar": names[row["shard"]].as_py(),
                "members": {name: [row[f"{name} offset"], row[f"{name} size"]] for name in MEMBERS},
            }
            for i, row in enumerate(rows)
        ]

    def _table(self, name: str) -> pa.Table:
        if name not in self._tables:
            self._tables[name] = read_table(self._folder, self._split, name)
        return self._tables[name]


def read_table(folder: Path, split: str, name: str) -> pa.Table:
    """Map a file that `write_tables` wrote; name is "clips" or "shards"."""
    with pa.memory_map(str(folder / f"{split}.{name}.arrow")) as source:
        return pa.ipc.open_file(source).read_all()


def _write(path: Path, table: pa.Table) -> str:
    """Write a table as one block, and return the hash of the file."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

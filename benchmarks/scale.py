"""Curates growing numbers of tiny videos, and opens growing indices: time and memory of one process.

    python benchmarks/scale.py --clips 1000 2000 4000
    python benchmarks/scale.py --clips --entries 10000 100000 1000000

The videos are made here: 1.2 s of 64×64 pixels, each with pictures of its own. "own memory" is that
of the process that curates, without its workers and without files that are mapped, which the system
may drop at any time (RssAnon). Each measurement runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lumiere.config import CurateConfig
from lumiere.curation.curate import curate
from lumiere.curation.manifest import read_manifest, write_manifest
from lumiere.data import clip_index
from lumiere.data.clips import ClipStore
from lumiere.data.prepare import COLUMNS
from lumiere.data.shards import Split, write_index
from lumiere.evaluation.backbones.efficientnet_lite import EfficientNetLite0Backbone

ROOT = Path(__file__).resolve().parents[1]
SIDE, FRAMES, FPS = 64, 20, 16
PER_SHARD = 64


def make_videos(folder: Path, count: int) -> None:
    """Write videos of a disc that crosses a texture, and their captions."""
    (folder / "raw").mkdir(parents=True)
    y, x = np.mgrid[:SIDE, :SIDE]
    lines = ["video,caption"]
    for number in range(count):
        generator = np.random.default_rng(number)
        texture = generator.integers(40, 215, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        row, color = int(generator.integers(16, 48)), generator.integers(0, 255, 3)
        name = f"{number:07d}.mp4"
        with av.open(str(folder / "raw" / name), "w") as container:
            options = {"preset": "ultrafast", "crf": "20", "threads": "1"}
            stream = container.add_stream("libx264", rate=FPS, options=options)
            stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
            for i in range(FRAMES):
                picture = texture.copy()
                picture[(x - 3 * i) ** 2 + (y - row) ** 2 < 100] = color
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        lines.append(f"{name},clip {number}")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")


def own_megabytes() -> float:
    """Return the memory of this process that is no mapped file."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


@contextmanager
def peak(found: dict[str, float]) -> Iterator[None]:
    """Note the seconds, and the highest own memory."""
    found["MB"], ended = own_megabytes(), threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            found["MB"] = max(found["MB"], own_megabytes())

    thread = threading.Thread(target=look)
    thread.start()
    begin = time.perf_counter()
    try:
        yield
    finally:
        found["seconds"] = time.perf_counter() - begin
        ended.set()
        thread.join()


def measure_curation(folder: Path, count: int) -> dict[str, float]:
    """Make the videos, curate them, and write and read the manifest."""
    make_videos(folder, count)
    config = CurateConfig(workers=2)
    network = EfficientNetLite0Backbone()
    network.embed(np.zeros((2, SIDE, SIDE, 3), np.uint8))
    found: dict[str, float] = {"MB before": own_megabytes()}
    with peak(found):
        rows, _ = curate(folder / "raw", folder / "captions.csv", config, folder / "s", network)
    found["accepted"] = sum(row["verdict"] == "accepted" for row in rows)
    write_manifest(folder / "manifest.parquet", rows)
    begin = time.perf_counter()
    read_manifest(folder / "manifest.parquet", COLUMNS, "accepted")
    found["read manifest"] = time.perf_counter() - begin
    return found


def measure_index(folder: Path, count: int) -> dict[str, float]:
    """Write an index, and open it."""
    members = {name: [512, 100] for name in clip_index.MEMBERS}
    shards = {
        f"train-{i:05d}.tar": {"size": 1, "sha256": "0" * 64} for i in range(-(-count // PER_SHARD))
    }
    names = list(shards)
    entries = [
        {"key": f"{i:06d}", "clip_id": f"c{i}@0", "tar": names[i // PER_SHARD], "members": members}
        for i in range(count)
    ]
    for name in names if count <= clip_index.MOST_IN_JSON else []:
        (folder / name).write_bytes(b"x")  # a small index is checked as it is opened
    facts = {"fps": 16, "num_frames": 16, "size": 32, "text_encoder": "x", "embed_dim": 2}
    write_index(folder, {"train": Split(entries, shards)}, max_text_tokens=2, **facts)
    del entries
    seconds = []
    for _ in range(7):
        begin = time.perf_counter()
        store = ClipStore(folder)
        assert store.entries[count - 1]["clip_id"] == f"c{count - 1}@0"
        seconds.append(time.perf_counter() - begin)
    return {"seconds": float(np.median(seconds))}


WORK = {"curation": measure_curation, "index": measure_index}


def in_own_process(work: str, count: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--work", work, "--count", str(count)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return json.loads(finished.stdout.splitlines()[-1])


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="*", default=[1000, 2000, 4000])
    parser.add_argument("--entries", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--work", choices=WORK, help="do one piece of work and print its figures")
    parser.add_argument("--count", type=int, default=0, help="clips, for --work")
    arguments = parser.parse_args()
    if arguments.work:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(WORK[arguments.work](Path(folder), arguments.count)))
        return
    if arguments.clips:
        print(
            "| videos | accepted | s | ms per video | own MB before | at most | manifest read, s |"
        )
        print("|---:|---:|---:|---:|---:|---:|---:|")
    for count in arguments.clips:
        found = in_own_process("curation", count)
        print(
            f"| {count:,} | {found['accepted']:,} | {found['seconds']:.0f} "
            f"| {1000 * found['seconds'] / count:.1f} | {found['MB before']:.0f} "
            f"| {found['MB']:.0f} | {found['read manifest']:.2f} |",
            flush=True,
        )
    if arguments.entries:
        print("\n| clips in the index | open and read one entry, ms |\n|---:|---:|")
    for count in arguments.entries:
        found = in_own_process("index", count)
        print(f"| {count:,} | {1000 * found['seconds']:.1f} |", flush=True)


if __name__ == "__main__":
    main()

"""Compares curation and decoding with a plain decode by FFmpeg's libraries, in CPU time and memory.

    python benchmarks/decode.py            # about two minutes on one core

The files are made here: H.264 at 24 fps, a key frame every 2 s. Each measurement runs in a process
of its own, on one thread. "Plain" decodes all frames and converts none, as `ffmpeg -threads 1 -f null`
does. CPU time counts user and system time of the process after its imports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lumiere.curation.measurement import measure_video
from lumiere.data import video_io
from lumiere.data.extract import fit
from lumiere.data.video_io import Ticks, decode_spans

ROOT = Path(__file__).resolve().parents[1]
FPS = 24
WINDOW = frozenset(range(16))
SIZE = 128


def make_video(path: Path, width: int, height: int, seconds: int) -> None:
    """Write a video of a picture with fine detail that pans."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 255, (height // 8, width // 4, 3), np.uint8)
    picture = coarse.repeat(8, axis=0).repeat(8, axis=1)
    picture += generator.integers(0, 24, picture.shape, np.uint8)
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "crf": "23", "g": str(2 * FPS), "bf": "2"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(seconds * FPS):
            left = 2 * i % width
            view = np.ascontiguousarray(picture[:height, left : left + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode())


def plain(path: Path, start: int) -> None:
    """Decode all frames."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for _ in container.decode(stream):
            pass


def curate(path: Path, start: int) -> None:
    """Measure the video, as the stage `curate` does."""
    with tempfile.TemporaryDirectory() as scratch:
        measured = measure_video(path.parent, path.name, (), 27.0, Path(scratch))
    assert not measured.reason, measured.detail


def windows(decoder: str, seeks: bool = True) -> Callable[[Path, int], None]:
    """Return a function that cuts the window of 16 frames at a time, as the stage `decode` does."""

    def cut(path: Path, start: int) -> None:
        video_io.SEEK_FROM = 10 if seeks else 10**9
        span = Ticks(
            Fraction(16),
            Fraction(start),
            wanted=WINDOW,
            transform=lambda frame: fit(frame, (SIZE, SIZE)),
        )
        ((_, decoded),) = decode_spans(path, [span], decoder)
        assert len(decoded.frames) == len(WINDOW)

    return cut


WORK: dict[str, Callable[[Path, int], None]] = {
    "plain": plain,
    "curate": curate,
    "PyAV": windows("pyav"),
    "PyAV without seeking": windows("pyav", seeks=False),
    "decord": windows("decord"),
}
HD = [("plain", 0), ("curate", 0)]
LARGE = [*HD, ("PyAV", 2), ("decord", 2)]
LONG = [
    ("plain", 0), ("PyAV", 1), ("PyAV", 118), ("PyAV without seeking", 118),
    ("decord", 1), ("decord", 118),
]  # fmt: skip
# Name of the file, width, height, seconds, and the (work, start of its window) that it is used for.
FILES = [
    ("720p, 10 s", 1280, 720, 10, HD),
    ("4K, 4 s", 3840, 2160, 4, LARGE),
    ("360p, 2 min", 640, 360, 120, LONG),
]


def measure(work: str, path: Path, start: int) -> dict[str, float]:
    """Do one piece of work here, and return its CPU seconds and this process's peak memory."""
    if work == "decord":
        import decord  # noqa: F401  its import is not measured
    before = time.process_time()
    WORK[work](path, start)
    return {"seconds": time.process_time() - before, "megabytes": peak_megabytes()}


def peak_megabytes() -> float:
    """Return the peak memory of this process; getrusage would count that of its parent too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def in_own_process(work: str, path: Path, start: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--work", work, "--path", str(path), "--start", str(start)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return json.loads(finished.stdout.splitlines()[-1])


def main() -> None:
    """Make the files, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", choices=WORK, help="do one piece of work and print its figures")
    parser.add_argument("--path", type=Path, help="the file for --work")
    parser.add_argument("--start", type=int, default=0, help="seconds, of the window for --work")
    arguments = parser.parse_args()
    if arguments.work:
        print(json.dumps(measure(arguments.work, arguments.path, arguments.start)))
        return
    print(
        "| file | work | window at | CPU s | plain / this | peak MB |\n|---|---|---:|---:|---:|---:|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, width, height, seconds, works) in enumerate(FILES):
            path = Path(folder) / f"{number}.mp4"
            make_video(path, width, height, seconds)
            reference = 0.0
            for work, start in works:
                figures = in_own_process(work, path, start)
                reference = reference or figures["seconds"]
                place = "" if work in ("plain", "curate") else f"{start} s"
                print(
                    f"| {name} | {work} | {place} | {figures['seconds']:.2f} "
                    f"| {reference / figures['seconds']:.2f} | {figures['megabytes']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

"""Build the sample videos from Microsoft's animated Fluent emoji (MIT), as packaged for npm.

    npm install --prefix /tmp/emoji @lobehub/fluent-emoji-anim-{1,2,3,4} emoji-datasource-google
    python data/build_sample_data.py --packages /tmp/emoji/node_modules
    python data/build_sample_data.py --packages /tmp/emoji/node_modules --pretraining

The script lays each animation on one plain background, samples it at 16 frames per second by the
rule "the last frame at or before k/16 s", and encodes it as H.264 (yuv420p, closed GOP, faststart).
The videos are committed, so nobody needs npm to use the project. Another build of the encoder can
give other bytes for the same pictures; `--keep` leaves the videos alone that are there already, so
that only new ones are added. The captions in `captions.csv` were written by hand, after looking at
the clips (`--sheets` draws the contact sheets for that).

The difficult inputs show what curation decides. They are made from the same animations.

The demo works on the videos in `data/raw`. `--pretraining` makes those that only the shipped
weights are trained on, from the list `pretraining/videos.csv`.
"""

from __future__ import annotations

import argparse
import bisect
import csv
import itertools
import json
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

FPS = 16
SIZE = 160
BACKGROUND = (236, 239, 244)
MAX_SECONDS = 4.0
HERE = Path(__file__).resolve().parent


def read_animation(path: Path) -> np.ndarray:
    """Read an animated WebP on the background, sampled at FPS: uint8 (t, h, w, c)."""
    image = Image.open(path)
    pictures, starts, clock = [], [], 0
    for index in range(image.n_frames):
        image.seek(index)
        rgba = image.convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        canvas = Image.new("RGBA", rgba.size, (*BACKGROUND, 255))
        canvas.alpha_composite(rgba)
        pictures.append(np.asarray(canvas.convert("RGB")))
        starts.append(clock)
        clock += int(image.info.get("duration", 0)) or 33
    length = min(clock / 1000, MAX_SECONDS)
    ticks = [k * 1000 / FPS for k in range(max(1, int(length * FPS)))]
    frames = [pictures[bisect.bisect_right(starts, tick) - 1] for tick in ticks]
    # The shortest loops last less than a second. Repeat them, so that the clip is long enough.
    least = int(1.5 * FPS)
    return np.stack(list(itertools.islice(itertools.cycle(frames), max(least, len(frames)))))


def write_video(
    path: Path, frames: np.ndarray, codec: str = "libx264", crf: int = 18, **options: str
) -> None:
    """Encode frames, uint8 (t, h, w, c), one every 1/16 s."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.thread_count = (
            1  # so that the bytes do not depend on the number of cores
        )
        stream.options = {"crf": str(crf), "preset": "slow", **options}
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def find_animations(packages: Path) -> dict[str, Path]:
    """Find the WebP files of the four packages, by code points."""
    folders = packages.glob("@lobehub/fluent-emoji-anim-*/assets")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.webp"))}


def write_difficult(raw: Path, clips: dict[str, np.ndarray]) -> None:
    """Write inputs on which curation has something to decide."""
    parts = [clips[name][:20] for name in ("fox_face", "steam_locomotive", "octopus", "rocket")]
    write_video(raw / "difficult-compilation.mp4", np.concatenate(parts))
    write_video(raw / "difficult-still.mp4", np.repeat(clips["owl"][:1], 32, axis=0))
    write_video(raw / "difficult-duplicate.mp4", clips["penguin"], crf=30)
    write_video(raw / "difficult-no-caption.mp4", clips["ghost"][:40, :, ::-1])
    # x265 writes open GOPs by default, on which decord returns wrong frames without an error.
    write_video(
        raw / "difficult-open-gop.mp4", clips["dolphin"][:, :, ::-1], codec="libx265", crf=26,
        **{"x265-params": "open-gop=1:keyint=16:min-keyint=8:scenecut=0:log-level=none:pools=1:frame-threads=1"},
    )  # fmt: skip
    whole = (raw / "penguin.mp4").read_bytes()
    (raw / "difficult-truncated.mp4").write_bytes(whole[: len(whole) // 3])


def draw_sheets(
    folder: Path, clips: dict[str, np.ndarray], per_sheet: int = 8, columns: int = 6
) -> None:
    """Draw contact sheets with eight clips each and six frames of each clip."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(clips)
    for number, start in enumerate(range(0, len(names), per_sheet)):
        sheet = Image.new("RGB", (columns * SIZE + 150, per_sheet * SIZE), "white")
        draw = ImageDraw.Draw(sheet)
        for row, name in enumerate(names[start : start + per_sheet]):
            draw.text((4, row * SIZE + SIZE // 2), name, fill="black")
            picks = np.linspace(0, len(clips[name]) - 1, columns).round().astype(int)
            for column, pick in enumerate(picks):
                sheet.paste(Image.fromarray(clips[name][pick]), (150 + column * SIZE, row * SIZE))
        sheet.save(folder / f"sheet-{number:02d}.png")


def main() -> None:
    """Build the videos."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--packages", type=Path, required=True, help="the node_modules folder of the npm packages"
    )
    parser.add_argument(
        "--pretraining", action="store_true", help="make the videos of data/pretraining instead"
    )
    parser.add_argument(
        "--out", type=Path, help="where the videos go (default: data/raw or data/pretraining/raw)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="only write the videos that are not there yet"
    )
    parser.add_argument("--sheets", type=Path, help="also draw contact sheets into this folder")
    arguments = parser.parse_args()

    listing, out = HERE / "subjects.csv", arguments.out or HERE / "raw"
    if arguments.pretraining:
        listing = HERE / "pretraining/videos.csv"
        out = arguments.out or HERE / "pretraining/raw"
    animations = find_animations(arguments.packages)
    with open(listing, newline="", encoding="utf-8") as file:
        subjects = {row["name"]: row["code_points"] for row in csv.DictReader(file)}
    absent = [name for name, code in subjects.items() if code not in animations]
    if absent:
        raise SystemExit(
            f"error: {arguments.packages} lacks {', '.join(absent)}; install the packages that this file names"
        )
    clips = {}
    for name, code in subjects.items():
        path = out / f"{name}.mp4"
        if arguments.keep and path.exists():
            continue
        clips[name] = read_animation(animations[code])
        write_video(path, clips[name])
    if not arguments.keep and not arguments.pretraining:
        write_difficult(out, clips)
    if arguments.sheets:
        draw_sheets(arguments.sheets, clips)
    print(json.dumps({"videos": len(list(out.glob("*.mp4")))}))


if __name__ == "__main__":
    main()

"""Make a handful of clips with a motion that the demo's network does not know: stills that grow from
half to whole size within a second, as if the camera came nearer. For `train_motion_lora.py`.

    PYTHONPATH=. python scripts/make_growing_clips.py --to motions/zoom
    python -m stages.curate --raw motions/zoom/raw --captions motions/zoom/captions.csv ...

docs/training.md has the commands that follow.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import av
import numpy as np
from PIL import Image

from lumiere.data.video_io import write_video
from lumiere.errors import run_program

ROOT = Path(__file__).resolve().parent.parent
SUBJECTS = (
    "airplane", "alarm_clock", "alien", "ambulance", "ant", "articulated_lorry",
    "auto_rickshaw", "baby_chick", "badger", "bat", "bear", "beaver",
)  # fmt: skip
SIDE, FPS, NUM_FRAMES, REST = 128, 16, 16, 4  # REST: frames at whole size behind the growth


def growing(picture: Image.Image) -> np.ndarray:
    """Return frames (t, h, w, 3), uint8, in which a picture grows on its own background."""
    picture = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    frames = []
    for i in range(NUM_FRAMES + REST):
        side = round(SIDE * min(0.5 + 0.5 * i / (NUM_FRAMES - 1), 1.0))
        frame = Image.new("RGB", (SIDE, SIDE), picture.getpixel((0, 0)))
        corner = (SIDE - side) // 2
        frame.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (corner, corner))
        frames.append(np.asarray(frame))
    return np.stack(frames)


def make(folder: Path) -> None:
    """Write the clips to `folder/raw`, and their captions, which are those of the sample."""
    with open(ROOT / "data/captions.csv", newline="", encoding="utf-8") as file:
        captions = [(row["video"], row["caption"]) for row in csv.DictReader(file)]
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    for name in SUBJECTS:
        with av.open(str(ROOT / "data/raw" / f"{name}.mp4")) as video:
            still = next(video.decode(video=0)).to_image()
        write_video(folder / "raw" / f"{name}.mp4", growing(still), FPS)
    with open(folder / "captions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video", "caption"])
        writer.writerows(row for row in captions if Path(row[0]).stem in SUBJECTS)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, required=True, help="folder for the clips")
    make(parser.parse_args().to)


if __name__ == "__main__":
    run_program(main)

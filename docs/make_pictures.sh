#!/bin/sh
# Makes the pictures of docs/command-line.md and the moving picture of README.md, from the demo weights and data/raw. Run it
# in the root of the repository, with the environment active: docs/make_pictures.sh. It takes about five minutes on two
# idle cores. The videos and their settings stay in modes/.
set -eu
make() { lumiere generate --model demo --sheet "$@"; }
make "a yellow taxi with black checks bounces gently" --seed 0 -o modes/text.mp4
make "a yellow taxi with black checks bounces gently" --seed 0 --no-upscale -o modes/text-small.mp4

python - <<'END'
from pathlib import Path

import numpy as np
from PIL import Image

from lumiere.data.video_io import read_video, write_video

# Pictures to start from: the first frames of sample videos, the same as `ffmpeg -vf fps=16 -start_number 0` writes.
for name, source in {"horse": "racehorse", "penguin": "penguin", "beer": "beer"}.items():
    Path("modes", name).mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(read_video(Path(f"data/raw/{source}.mp4"), 16)[:16]):
        Image.fromarray(frame).save(f"modes/{name}/{i:04d}.png")
# A mask is white where to generate: a box that moves from left to right.
mask = np.zeros((16, 160, 160, 3), np.uint8)
for i in range(16):
    mask[i, 20:140, 5 * i : 5 * i + 80] = 255
write_video(Path("modes/moving-mask.mp4"), mask, 16)
END

make "a brown horse gallops in place, kicking its front legs, its black mane waving" --seed 1 \
    --image modes/horse/0000.png -o modes/image.mp4
make "a penguin waddles from side to side, flapping its wings and lifting its orange feet" --seed 1 \
    --image modes/penguin/0000.png --last-image modes/penguin/0008.png -o modes/first-and-last.mp4
make "a brown horse gallops in place, kicking its front legs, its black mane waving" --seed 1 \
    --last-image modes/horse/0000.png -o modes/last-image.mp4
make "a beer mug full of golden beer, white foam dripping down the glass" --seed 1 \
    --image modes/beer/0000.png --mask 0,0,1,0.55 -o modes/cinemagraph.mp4
make "a smiling yellow face in a brown cowboy hat blinks and tilts its head" --seed 1 \
    --video data/raw/sunglasses.mp4 --mask 0,0,1,0.4 -o modes/inpainting.mp4
make "a yellow taxi seen from the front rocks slightly as it drives" --seed 1 \
    --video data/raw/oncoming_automobile.mp4 --mask modes/moving-mask.mp4 -o modes/moving-inpainting.mp4
make "a red heart beats, shrinking small and then leaping up larger" --seed 1 \
    --video data/raw/heart.mp4 --outpaint -o modes/outpainting.mp4
make "a yellow taxi seen from the front rocks slightly as it drives" --seed 1 \
    --video data/raw/oncoming_automobile.mp4 --strength 0.6 -o modes/video.mp4
make "an ink drawing of a fire engine" --style line-art --alpha 0.8 --seed 0 -o modes/style.mp4

# The contact sheets, for docs/command-line.md, and eight videos side by side, for README.md.
python - <<'END'
from pathlib import Path

import numpy as np
from PIL import Image

from lumiere.data.video_io import read_video

folder = Path("docs/images/modes")
folder.mkdir(parents=True, exist_ok=True)
for sheet in Path("modes").glob("*.sheet.png"):
    with Image.open(sheet) as picture:
        picture.save(folder / f"{sheet.name.removesuffix('.sheet.png')}.webp", quality=80, method=6)

FPS, GAP = 16, 4
rows = []
for names in (
    ["text", "image", "first-and-last", "cinemagraph"],
    ["inpainting", "moving-inpainting", "outpainting", "style"],
):
    videos = [read_video(Path(f"modes/{name}.mp4"), FPS) for name in names]  # (t, h, w, 3)
    padded = [np.pad(video, [(0, 0), (0, GAP), (0, GAP), (0, 0)], constant_values=255) for video in videos]
    rows.append(np.concatenate(padded, axis=2))
frames = np.concatenate(rows, axis=1)[:, :-GAP, :-GAP]
first, *others = [Image.fromarray(frame) for frame in frames]
first.save(
    folder.parent / "modes.webp",
    save_all=True, append_images=others, duration=1000 // FPS, loop=0, quality=85, method=6,
)
END

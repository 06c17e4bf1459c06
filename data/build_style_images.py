"""Build the style pictures from Fluent Emoji High Contrast (MIT), as packaged for npm.

    npm install --prefix /tmp/emoji @iconify-json/fluent-emoji-high-contrast
    python -m venv /tmp/svg && /tmp/svg/bin/pip install resvg-py pillow
    /tmp/svg/bin/python data/build_style_images.py --packages /tmp/emoji/node_modules

`resvg-py` renders the drawings. Only this script needs it; it is not a dependency of the project,
because the pictures are committed. The pictures in `data/styles/<style>/captions.csv` were chosen
and described by hand, after looking at the drawings (`--sheet` draws a sheet for that). A picture
has the name that its drawing has in the package.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from pathlib import Path

import resvg_py
from PIL import Image, ImageDraw

SIZE = 64
INK, PAPER = "#1b2a5e", "#fbeed3"  # dark navy lines on warm cream paper
HERE = Path(__file__).resolve().parent
STYLE = HERE / "styles" / "line-art"


def draw(body: str, side: int) -> Image.Image:
    """Render a drawing of 32 x 32 units with a margin of 3, as an RGB picture of `side` pixels.

    It has two colours, and mixtures of them at the edges.
    """
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-3 -3 38 38" width="{side}" height="{side}">'
        f'<rect x="-3" y="-3" width="38" height="38" fill="{PAPER}"/><g>{body.replace("currentColor", INK)}</g></svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))
    return Image.open(io.BytesIO(png)).convert("RGB")


def draw_sheet(path: Path, pictures: dict[str, Image.Image], columns: int = 12) -> None:
    """Draw all pictures with their names."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (SIZE + 40), rows * (SIZE + 16)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (name, picture) in enumerate(pictures.items()):
        x, y = i % columns * (SIZE + 40), i // columns * (SIZE + 16)
        sheet.paste(picture, (x, y))
        pen.text((x, y + SIZE), name[:16], fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def main() -> None:
    """Build the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--packages", type=Path, required=True, help="the node_modules folder of the npm package"
    )
    parser.add_argument("--style", type=Path, default=STYLE, help="a folder with a captions.csv")
    parser.add_argument(
        "--sheet", type=Path, help="also draw one sheet with all pictures into this file"
    )
    arguments = parser.parse_args()

    package = arguments.packages / "@iconify-json" / "fluent-emoji-high-contrast"
    if not (package / "icons.json").is_file():
        raise SystemExit(
            f"error: {package} has no icons.json; install the package that this file names"
        )
    icons = json.loads((package / "icons.json").read_text(encoding="utf-8"))["icons"]
    with open(arguments.style / "captions.csv", newline="", encoding="utf-8") as file:
        names = sorted(Path(row["image"]).stem for row in csv.DictReader(file))
    absent = [name for name in names if name not in icons]
    if absent:
        raise SystemExit(f"error: {package.name} lacks {', '.join(absent)}; correct captions.csv")
    pictures = {name: draw(icons[name]["body"], SIZE) for name in names}
    for name, picture in pictures.items():
        picture.save(arguments.style / f"{name}.png", optimize=True)
    if arguments.sheet:
        draw_sheet(arguments.sheet, pictures)
    print(json.dumps({"pictures": len(pictures)}))


if __name__ == "__main__":
    main()

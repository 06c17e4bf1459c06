"""Build the style pictures from Microsoft's Fluent Emoji (MIT), as packaged for npm.

    npm install --prefix /tmp/emoji @iconify-json/fluent-emoji-high-contrast@1.2.6 \
        @lobehub/fluent-emoji-3d@1.1.0
    python -m venv /tmp/svg && /tmp/svg/bin/pip install resvg-py pillow numpy
    /tmp/svg/bin/python data/build_style_images.py --packages /tmp/emoji/node_modules

`resvg-py` renders the drawings. Only this script needs it; it is not a dependency of the project,
because the pictures are committed. The pictures in `data/styles/<style>/captions.csv` were chosen
and described by hand, after looking at the drawings (`--sheets` draws sheets for that). A picture
has the name that its drawing has in the package of Iconify.

`neon` and `sunset` are made from the 3D drawings that the demo's image model has learned. Such a
style changes colours and light and keeps shapes, so that little training keeps the subjects.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import resvg_py
from PIL import Image, ImageDraw, ImageFilter

SIZE = 64
FINE = 256  # the side at which filters work, so that their edges become smooth in the picture
HERE = Path(__file__).resolve().parent


# --- styles -----------------------------------------------------------------------------------------------------------

INK, PAPER = "#1b2a5e", "#fbeed3"  # dark navy lines on warm cream paper
NIGHT = "#05050f"
STROKE = 9  # of FINE, in pixels; about one pixel of a picture of 32
SKY = ("#6b2a94", "#c43b84", "#f7644a", "#ff9d33", "#ffd955")  # from top to bottom
SILHOUETTE = ("#10051c", "#200a30", "#3a1247", "#6d2058", "#b23a63")  # from dark to bright


def draw_line_art(body: str) -> Image.Image:
    """Draw ink on paper: two colours, and mixtures of them at the edges."""
    paper = f'<rect x="-3" y="-3" width="38" height="38" fill="{PAPER}"/>'
    return render(paper + f"<g>{body.replace('currentColor', INK)}</g>", SIZE).convert("RGB")


def draw_neon(path: Path) -> Image.Image:
    """Draw a glowing outline in the drawing's own hues around a dimmed body, on black."""
    colour, alpha = read_layers(path)
    painted = colour * alpha
    tubes = vivid(blurred(painted, 4) / (blurred(alpha, 4) + 1e-3))
    outline = edge_strength(alpha)
    glow = 0.75 * blurred(alpha * tubes, 20) + 0.5 * blurred(outline * tubes, 10)
    # The body stays, because outlines alone leave too little of a subject at 32 pixels.
    dark = (rgb(NIGHT) + glow) * (1 - alpha) + 0.75 * painted
    return picture(dark * (1 - outline) + (0.75 * tubes + 0.25) * outline)


def draw_sunset(path: Path) -> Image.Image:
    """Draw a dark silhouette, in which bright parts show faintly, on an evening sky."""
    colour, alpha = read_layers(path)
    height = np.linspace(0, 1, FINE)[:, None].repeat(FINE, axis=1)
    brightness = colour @ np.array([0.299, 0.587, 0.114])
    silhouette = gradient((brightness - 0.15) / 0.85, SILHOUETTE)
    return picture(gradient(height, SKY) * (1 - alpha) + silhouette * alpha)


class Style(NamedTuple):
    """How a style is made.

    Attributes:
        find: finds the drawings in a node_modules folder, by their names.
        draw: turns one of them into a picture of SIZE x SIZE.
        colours: of the palette of the written file, which keeps it small; 0 writes full colour.
    """

    find: Callable[[Path], dict[str, Any]]
    draw: Callable[[Any], Image.Image]
    colours: int = 0


# --- pixels -----------------------------------------------------------------------------------------------------------


def render(body: str, side: int) -> Image.Image:
    """Render a drawing of 32 x 32 units with a margin of 3, as a picture of `side` pixels."""
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-3 -3 38 38" width="{side}" height="{side}">'
        f"{body}</svg>"
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))
    return Image.open(io.BytesIO(png))


def read_layers(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a picture's colours (h, w, 3) and its opacity (h, w, 1), from 0 to 1."""
    with Image.open(path) as opened:
        fine = opened.convert("RGBA").resize((FINE, FINE), Image.Resampling.LANCZOS)
    pixels = np.asarray(fine, np.float64) / 255
    return pixels[..., :3], pixels[..., 3:]


def picture(pixels: np.ndarray) -> Image.Image:
    """Turn pixels (h, w, 3) from 0 to 1 into a picture of SIZE x SIZE."""
    full = Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))
    return full.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def filtered(pixels: np.ndarray, kernel: ImageFilter.Filter) -> np.ndarray:
    """Apply a filter of Pillow to each channel of pixels (h, w, c) from 0 to 1."""
    channels = []
    for channel in np.moveaxis((pixels.clip(0, 1) * 255).round().astype(np.uint8), 2, 0):
        channels.append(np.asarray(Image.fromarray(channel).filter(kernel), np.float64) / 255)
    return np.stack(channels, axis=2)


def blurred(pixels: np.ndarray, radius: float) -> np.ndarray:
    """Blur pixels (h, w, c) from 0 to 1."""
    return filtered(pixels, ImageFilter.GaussianBlur(radius))


def edge_strength(pixels: np.ndarray) -> np.ndarray:
    """Return where pixels (h, w, c) change within a stroke's width, (h, w, 1) from 0 to 1."""
    highest = filtered(pixels, ImageFilter.MaxFilter(STROKE))
    lowest = filtered(pixels, ImageFilter.MinFilter(STROKE))
    change = (highest - lowest).max(axis=2, keepdims=True)
    return (1.6 * change - 0.15).clip(0, 1)  # leaves out faint shading


def vivid(colour: np.ndarray) -> np.ndarray:
    """Raise colours (h, w, 3) to full brightness, and their saturation."""
    grey = 0.8 * colour.min(axis=2, keepdims=True)
    return (colour - grey) / (colour.max(axis=2, keepdims=True) - grey + 1e-3)


def rgb(colour: str) -> np.ndarray:
    """Turn `#rrggbb` into three numbers from 0 to 1."""
    return np.array(list(bytes.fromhex(colour.removeprefix("#")))) / 255


def gradient(values: np.ndarray, colours: tuple[str, ...]) -> np.ndarray:
    """Colour values (h, w) from 0 to 1 by a gradient of evenly spaced colours."""
    places = np.linspace(0, 1, len(colours))
    stops = np.stack([rgb(colour) for colour in colours])
    return np.stack([np.interp(values, places, stops[:, i]) for i in range(3)], axis=2)


# --- files ------------------------------------------------------------------------------------------------------------


OUTLINES, MODELS = "@iconify-json/fluent-emoji-high-contrast", "@lobehub/fluent-emoji-3d"


def read_package(packages: Path, name: str) -> dict[str, Any]:
    """Read a JSON file of the package of outlines."""
    path = packages / OUTLINES / name
    if not path.is_file():
        raise SystemExit(f"error: {path}: no such file; install the packages that this file names")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def find_outlines(packages: Path) -> dict[str, str]:
    """Return the SVG elements of the high-contrast drawings."""
    icons = read_package(packages, "icons.json")["icons"]
    return {name: icon["body"] for name, icon in icons.items()}


def find_models(packages: Path) -> dict[str, Path]:
    """Return the pictures of the 3D drawings, which that package names by code points."""
    folder = packages / MODELS / "assets"
    found: dict[str, Path] = {}
    for code, name in read_package(packages, "chars.json").items():
        for path in (folder / f"{code}.webp", folder / f"{code}-fe0f.webp"):
            if path.is_file():
                found.setdefault(name, path)
    return found


STYLES = {
    "line-art": Style(find_outlines, draw_line_art),
    "neon": Style(find_models, draw_neon, colours=64),
    "sunset": Style(find_models, draw_sunset, colours=64),
}


def draw_sheet(path: Path, pictures: dict[str, Image.Image], columns: int = 12) -> None:
    """Draw all pictures with their names."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (SIZE + 40), rows * (SIZE + 16)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (name, drawn) in enumerate(pictures.items()):
        x, y = i % columns * (SIZE + 40), i // columns * (SIZE + 16)
        sheet.paste(drawn, (x, y))
        pen.text((x, y + SIZE), name[:16], fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def build(name: str, packages: Path) -> dict[str, Image.Image]:
    """Write the pictures of a style that its captions.csv names, and return them."""
    style, folder = STYLES[name], HERE / "styles" / name
    drawings = style.find(packages)
    with open(folder / "captions.csv", newline="", encoding="utf-8") as file:
        names = sorted(Path(row["image"]).stem for row in csv.DictReader(file))
    absent = [drawing for drawing in names if drawing not in drawings]
    if absent:
        raise SystemExit(
            f"error: {name}: the packages lack {', '.join(absent)}; install them, or correct captions.csv"
        )
    pictures = {drawing: style.draw(drawings[drawing]) for drawing in names}
    for drawing, drawn in pictures.items():
        if style.colours:
            drawn = drawn.quantize(style.colours, dither=Image.Dither.NONE)
        drawn.save(folder / f"{drawing}.png", optimize=True)
    return pictures


def main() -> None:
    """Build the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--packages", type=Path, required=True, help="the node_modules folder of the npm packages"
    )
    parser.add_argument(
        "--styles", nargs="+", choices=STYLES, default=list(STYLES), help="default: all"
    )
    parser.add_argument(
        "--sheets", type=Path, help="also draw a sheet of each style into this folder"
    )
    arguments = parser.parse_args()

    for name in arguments.styles:
        pictures = build(name, arguments.packages)
        if arguments.sheets:
            draw_sheet(arguments.sheets / f"{name}.png", pictures)
        print(json.dumps({"style": name, "pictures": len(pictures)}))


if __name__ == "__main__":
    main()

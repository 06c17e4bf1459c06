"""The command `lumiere evaluate`: measures a folder of videos against a folder of real ones."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer


def _option(*names: str, **options: Any) -> Any:
    return typer.Option(*names, show_default=False, **options)


Videos = Annotated[
    Path,
    typer.Argument(
        metavar="VIDEOS", help="A folder of generated videos, by any model.", show_default=False
    ),
]
Real = Annotated[
    Path,
    _option(
        "--real", metavar="FOLDER",
        help="A folder of real videos. A file with the name or the caption of a generated one is its counterpart.",
    ),
]  # fmt: skip
Output = Annotated[
    Path,
    _option(
        "--output", "-o", metavar="FOLDER", help="Where to write metrics.json and report.html."
    ),
]
Captions = Annotated[
    Path | None,
    _option(
        "--captions", metavar="CSV",
        help="A file with the columns video (a file name of either folder) and caption. Default: the prompt in the "
        "JSON file that `lumiere generate` writes beside a video.",
    ),
]  # fmt: skip
Frames = Annotated[
    int | None,
    _option(
        "--frames", min=2, metavar="N",
        help="Measure the first N frames, and leave out shorter videos. Default: as many as the shortest video has, "
        "at most 16.",
    ),
]  # fmt: skip
Fps = Annotated[
    str | None,
    _option(
        "--fps", metavar="N",
        help="Read all videos at N frames a second. Default: the rate of most generated ones.",
    ),
]  # fmt: skip
Backbones = Annotated[
    list[str] | None,
    _option(
        "--backbone", metavar="NAME=FILE",
        help="Also measure with another network, whose weights you have, such as i3d=i3d_torchscript.pt. Can be given "
        "several times; --backbone list shows the names.",
    ),
]  # fmt: skip
Aesthetic = Annotated[
    str | None,
    _option(
        "--aesthetic", metavar="FILE",
        help="LAION's aesthetic head, sa_0_4_vit_l_14_linear.pth; needs --backbone open_clip=ViT-L-14/FILE.",
    ),
]  # fmt: skip
Baseline = Annotated[
    Path | None,
    _option(
        "--baseline", metavar="JSON",
        help="The metrics.json of another run. The report tells what is better and worse.",
    ),
]  # fmt: skip
Cache = Annotated[
    str | None,
    _option(
        "--cache", metavar="FOLDER",
        help="Where features are kept between runs, or `none` [~/.cache/lumiere/features].",
    ),
]  # fmt: skip
Seed = Annotated[int, _option("--seed", min=0, metavar="N", help="For all random draws [0].")]


def evaluate(
    videos: Videos,
    real: Real,
    output: Output,
    captions: Captions = None,
    frames: Frames = None,
    fps: Fps = None,
    backbone: Backbones = None,
    aesthetic: Aesthetic = None,
    baseline: Baseline = None,
    cache: Cache = None,
    seed: Seed = 0,
) -> None:
    """Measure how close generated videos are to real ones, and write a report that opens in a browser.

    The features come from a network that has seen neither the videos nor any model's training data: EfficientNet-Lite0,
    trained on ImageNet. Its distances compare runs with each other; they are not FID or FVD. For those, give the
    standard networks' weights with --backbone.

    \b
    Examples:
      lumiere evaluate outputs/videos --real data/raw -o report
      lumiere evaluate theirs --real clips --captions captions.csv -o report
      lumiere evaluate theirs --real clips --backbone i3d=i3d_torchscript.pt -o report
    """
    from lumiere.cli.generate import tell
    from lumiere.evaluation.folders import evaluate_folders

    result = evaluate_folders(
        videos,
        real,
        output,
        captions=captions,
        num_frames=frames,
        fps=None if fps is None else _rate(fps),
        backbones=backbone or [],
        aesthetic=aesthetic or "",
        baseline=baseline,
        cache=cache,
        seed=seed,
        tell=tell,
    )
    typer.echo(str(result))


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise ValueError(f"--fps {text}; allowed: a number above 0, such as 16 or 30000/1001")
    return rate.limit_denominator(1001)

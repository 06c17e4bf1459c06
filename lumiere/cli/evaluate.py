"""The command `lumiere evaluate`: measures a folder of videos against a folder of real ones."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lumiere.cli.options import declared
from lumiere.errors import DiskError, ParamsError

if TYPE_CHECKING:
    from lumiere.cli.staging import Move

# What a report consists of. Those of an earlier report go when a new one is written.
REPORT_FILES = (
    "report.html",
    "metrics.json",
    "scores.json",
    "generated.png",
    "real.png",
    "scores.png",
    "spectrum.png",
    "plots/scores.csv",
    "plots/spectrum.csv",
    "plots/per_video.csv",
    "videos/[0-9][0-9][0-9]-*.webp",
)


def _show_backbones(values: list[str] | None) -> list[str] | None:
    if "list" not in (values or []):
        return values
    from lumiere.evaluation.backbones.registry import BACKBONES  # late: torch takes seconds

    for name, entry in BACKBONES.items():
        needs = f"; {name}=FILE: {entry.files}" if entry.files else "; always measured"
        typer.echo(f"{name:<19} {entry.description}{needs}")
    raise typer.Exit


Videos = Annotated[
    Path,
    typer.Argument(
        metavar="VIDEOS", help="A folder of generated videos, by any model.", show_default=False
    ),
]
Real = Annotated[
    Path,
    declared(
        "--real", metavar="FOLDER",
        help="A folder of real videos. A generated and a real video of the same name or caption belong together.",
    ),
]  # fmt: skip
Output = Annotated[
    Path,
    declared(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Where to write report.html, metrics.json and plots.",
    ),
]
Captions = Annotated[
    Path | None,
    declared(
        "--captions", metavar="CSV",
        help="A file with the columns video (a file name of either folder) and caption. By default, a caption is the "
        "prompt in the JSON file that `lumiere generate` writes beside a video.",
    ),
]  # fmt: skip
Frames = Annotated[
    int | None,
    declared(
        "--frames", min=2, metavar="N",
        help="Measure the first N frames, and leave out shorter videos. By default N is the length of the shortest "
        "generated video, at most 16.",
    ),
]  # fmt: skip
Fps = Annotated[
    str | None,
    declared(
        "--fps", metavar="N",
        help="Read all videos at N frames a second, by default at the lower of the usual rates of both folders.",
    ),
]  # fmt: skip
Backbones = Annotated[
    list[str] | None,
    declared(
        "--backbone", metavar="NAME=FILE",
        help="Also measure with another network, whose weights you have, such as i3d=i3d_torchscript.pt. You can give "
        "this option several times. `--backbone list` shows the names.",
        callback=_show_backbones, is_eager=True,
    ),
]  # fmt: skip
Aesthetic = Annotated[
    str | None,
    declared(
        "--aesthetic", metavar="FILE",
        help="LAION's aesthetic head, sa_0_4_vit_l_14_linear.pth; needs --backbone open_clip=ViT-L-14/FILE.",
    ),
]  # fmt: skip
Baseline = Annotated[
    Path | None,
    declared(
        "--baseline", metavar="JSON",
        help="The metrics.json of another run. The report says what became better or worse.",
    ),
]  # fmt: skip
Cache = Annotated[
    str | None,
    declared(
        "--cache", metavar="FOLDER",
        help="Where features are kept between runs, or `none` [~/.cache/lumiere/features].",
    ),
]  # fmt: skip
Seed = Annotated[
    int, declared("--seed", min=0, metavar="N", help="The seed of all random draws [0].")
]


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
    """Compare generated videos with real ones.

    It writes a report that opens in a browser. The distances use the features of EfficientNet-Lite0, a network trained
    on ImageNet. They compare runs with each other, and are not FID or FVD. For those, give the weights of the standard
    networks with --backbone.

    \b
    Examples:
      lumiere evaluate outputs/videos --real data/raw -o report
      lumiere evaluate theirs --real clips --captions captions.csv -o report
      lumiere evaluate theirs --real clips --backbone i3d=i3d.pt -o report

    Exit codes: 0 if the report was written, 2 if the input is wrong, 130 if the command was stopped.
    """
    from lumiere.cli.generate import STOPPED, tell, terminated_like_ctrl_c
    from lumiere.cli.staging import staging, swap

    rate = None if fps is None else _rate(fps)
    _check_output(output, videos, real)
    try:
        with terminated_like_ctrl_c(), staging(output) as aside:
            from lumiere.evaluation.folders import evaluate_folders  # late: torch takes seconds
            from lumiere.pipelines.assemble import PRETRAINED

            evaluate_folders(
                videos,
                real,
                aside,
                captions=captions,
                num_frames=frames,
                fps=rate,
                backbones=backbone or [],
                aesthetic=aesthetic or "",
                baseline=baseline,
                cache=cache,
                judge=PRETRAINED / "judge",
                seed=seed,
                tell=tell,
            )
            swap(_moves(aside, output), aside)
    except KeyboardInterrupt:
        tell("stopped; no report was written")
        raise typer.Exit(STOPPED) from None
    except OSError as error:
        if error.filename is not None:
            raise
        raise DiskError(
            f"{output}: cannot be written ({error.strerror}); make room, or choose another place "
            "with -o"
        ) from None
    typer.echo(str(output / "report.html"))


def _check_output(output: Path, videos: Path, real: Path) -> None:
    from lumiere.cli.targets import check_writable

    for folder in (videos, real):
        inside = output.resolve().is_relative_to(folder.resolve())
        if folder.is_dir() and inside:
            raise ParamsError(
                f"-o {output}: it lies in a folder of videos, {folder}; choose another place"
            )
        # The report may write videos there.
        if folder.resolve().is_relative_to((output / "videos").resolve()):
            raise ParamsError(
                f"-o {output}: the report may write into {output / 'videos'}, where the videos to "
                "measure are; choose another place"
            )
    check_writable(output)
    foreign = _foreign_file(output)
    if foreign is not None:
        raise ParamsError(
            f"-o {output}: {foreign.relative_to(output)} is there and was not written by lumiere "
            "evaluate; choose another place"
        )


def _foreign_file(output: Path) -> Path | None:
    """Return a file that the report would replace and that no earlier report wrote."""
    there = [path for pattern in REPORT_FILES for path in sorted(output.glob(pattern))]
    if not there or _is_report(output):
        return None
    return there[0]


def _is_report(output: Path) -> bool:
    """Return whether scores.json belongs to an earlier report."""
    try:
        rows = json.loads((output / "scores.json").read_text(encoding="utf-8"))
        return all({"key", "value", "floor", "outside_floor"} <= set(row) for row in rows)
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _moves(aside: Path, output: Path) -> list[Move]:
    """Return the moves that put a new report in the place of an earlier one."""
    new = [path.relative_to(aside) for path in sorted(aside.rglob("*")) if path.is_file()]
    old: list[Path] = []
    if _is_report(output):
        old = [
            path.relative_to(output) for pattern in REPORT_FILES for path in output.glob(pattern)
        ]
    moves: list[Move] = [(None, output / name) for name in sorted(set(old) - set(new))]
    for name in new:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        moves.append((aside / name, output / name))
    return moves


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text).limit_denominator(1001)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise ValueError(
            f"--fps {text}; allowed: a number above 0 and at most 1000, such as 16 or 30000/1001"
        )
    return rate

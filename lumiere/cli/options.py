"""The options of `lumiere generate`, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lumiere.modes import DEFAULT_ALPHA, DEFAULT_STRENGTH, MODES


def option(field: str) -> str:
    """Return the name of a request's field on the command line."""
    return "--" + field.replace("_", "-")


def declared(*names: str, help: str, **options: Any) -> Any:
    """Declare an option. Its help says the default, where there is one to say."""
    return typer.Option(*names, help=help, show_default=False, **options)


Prompt = Annotated[
    str | None,
    typer.Argument(
        metavar="PROMPT", help="What the video shows: a sentence, in quotes.", show_default=False
    ),
]
Output = Annotated[
    str | None,
    declared(
        "--output", "-o", metavar="PATH",
        help="Where to write: *.mp4, *.webm, *.gif or *.webp; PNGs as fox-%03d.png or into a folder, fox/. With "
        "--from-file, a folder or a pattern such as out/{name}.gif.",
    ),
]  # fmt: skip
Image = Annotated[str | None, declared("--image", metavar="FILE", help="The first frame.")]
LastImage = Annotated[
    str | None,
    declared("--last-image", metavar="FILE", help="The last frame, alone or with --image."),
]
Video = Annotated[
    str | None,
    declared(
        "--video", metavar="FILE", help="The video to change: all of it, or what --mask marks."
    ),
]
Clip = Annotated[
    str | None,
    declared(
        "--clip", metavar="ID",
        help="A training clip, such as racehorse@0, in place of --image or --video. Needs --mode, and the clips of "
        "the current project in outputs/clips.",
    ),
]  # fmt: skip
Mask = Annotated[
    str | None,
    declared(
        "--mask", metavar="FILE|BOX",
        help="Where to generate: a picture or a video of the input's size, white = generate; or a box x0,y0,x1,y1 in "
        "shares of the frame, such as 0.5,0,1,1 for the right half.",
    ),
]  # fmt: skip
Mode = Annotated[
    str | None,
    declared(
        "--mode", metavar="NAME",
        help=f"{', '.join(MODES)}. Default: inferred from the inputs.",
    ),
]  # fmt: skip
Cinemagraph = Annotated[
    bool,
    declared("--cinemagraph", help="Short for --mode cinemagraph; --image and --mask imply it."),
]
Outpaint = Annotated[
    bool,
    declared(
        "--outpaint",
        help="Short for --mode outpainting: put --video in the middle of a larger frame and generate around it.",
    ),
]
Strength = Annotated[
    str | None,
    declared(
        "--strength", metavar="0..1",
        help=f"How far to depart from --video [{DEFAULT_STRENGTH}]. With --image, a value below 1 starts every frame "
        "from the picture.",
    ),
]  # fmt: skip
Style = Annotated[str | None, declared("--style", metavar="NAME", help="A style of the model.")]
Alpha = Annotated[
    str | None,
    declared(
        "--alpha",
        metavar="0..1",
        help=f"The style's weight [{DEFAULT_ALPHA}]; the paper uses 0.5 to 1.",
    ),
]
KeepKnown = Annotated[
    bool,
    declared(
        "--keep-known", help="Put the given pixels back exactly at the end, after super-resolution."
    ),
]
NegativePrompt = Annotated[
    str | None, declared("--negative-prompt", metavar="TEXT", help="What to steer away from.")
]
Seed = Annotated[
    str | None,
    declared(
        "--seed",
        metavar="N",
        help="The same seed gives the same video. Default: a new one for each run.",
    ),
]
NumVideos = Annotated[
    str | None,
    declared(
        "--num-videos", metavar="N", help="How many videos, with the seeds N, N + 1, ... [1]."
    ),
]
Frames = Annotated[
    str | None,
    declared(
        "--frames",
        metavar="N",
        help="How many frames. Default: as many as the model was trained on.",
    ),
]
Steps = Annotated[
    str | None,
    declared(
        "--steps", metavar="N", help="Denoising steps of the base model. Default: the model's."
    ),
]
Guidance = Annotated[
    str | None,
    declared(
        "--guidance", metavar="N",
        help="How strongly the prompt guides, from 1 (not at all). Default: the model's.",
    ),
]  # fmt: skip
Motion = Annotated[
    str | None,
    declared(
        "--motion", metavar="N",
        help="The factor of motion: 1 leaves the network's motion unchanged, below 1 a video moves less. Default: the "
        "model's; the demo weights have 1.6.",
    ),
]  # fmt: skip
Smoothing = Annotated[
    str | None,
    declared(
        "--smoothing", metavar="0..1",
        help="How much flicker to take out, from 0 (none). Default: the model's; the demo weights have 1.",
    ),
]  # fmt: skip
Upscale = Annotated[
    bool | None,
    declared(
        "--upscale/--no-upscale",
        help="Run super-resolution, or keep the base model's small frames.",
    ),
]
ModelFolder = Annotated[
    str | None,
    declared(
        "--model", metavar="FOLDER",
        help="A folder of LumierePipeline.save_pretrained, or `demo`. Default: outputs/pipeline in the current folder, "
        "which `make demo` writes; without it, the demo weights that come with the repository.",
    ),
]  # fmt: skip
Fast = Annotated[
    bool,
    declared(
        "--fast",
        help="Use the network that was distilled to a few steps without guidance, from the folder `distilled` beside "
        "the model's, such as outputs/distilled. It replaces --steps and --guidance.",
    ),
]  # fmt: skip
Device = Annotated[
    str | None,
    declared(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1, ... Default: a GPU if there is one."
    ),
]
FromFile = Annotated[
    Path | None,
    declared(
        "--from-file", metavar="CSV",
        help="Make one video per row. The columns are prompt and, as needed, name and these options (mode, image, "
        "last_image, ...). Options given here apply to all rows. Run it again to continue where it stopped. If a row "
        "fails, the others are still made, and the exit code is 1.",
    ),
]  # fmt: skip
FromJson = Annotated[
    Path | None,
    declared(
        "--from-json", metavar="JSON",
        help="Make a video again from the JSON file beside it; other options change it.",
    ),
]  # fmt: skip
Sheet = Annotated[
    bool, declared("--sheet", help="Also write a contact sheet, *.sheet.png, beside the video.")
]

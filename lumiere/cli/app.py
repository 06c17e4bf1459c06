"""The command `lumiere`.

Modules that need torch are imported when a command runs: help is there at once.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lumiere.cli.inspect import inspect
from lumiere.errors import LumiereError, one_line
from lumiere.version import __version__

BAD_INPUT, STOPPED = 2, 130  # as of a shell's command that Ctrl-C ended

UsageError: Any = typer.BadParameter.__mro__[1]  # click's, wherever this typer keeps it


class OneSentence(TyperGroup):
    """The commands; what is wrong with a call of them is told as any other bad input is."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names."""
        word = args[0]
        if " " in word:
            ctx.fail(f'no command; did you mean: lumiere generate "{word}"')
        if word not in self.commands and not word.startswith("-"):
            ctx.fail(f"no command {word!r}; allowed: {', '.join(self.commands)}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command, and exit."""
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except UsageError as error:
            message = error.format_message().rstrip(".")
            command = error.ctx.command_path if error.ctx else "lumiere"
            _tell(f"error: {message[0].lower()}{message[1:]}; see {command} --help")
            code = BAD_INPUT
        sys.exit(code)


app = typer.Typer(
    cls=OneSentence,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 110},
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"lumiere {__version__}")
        raise typer.Exit()


@app.callback()
def lumiere(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Text to video with a Space-Time U-Net.

    \b
    A first video, and all that can be asked for:
      lumiere generate "a yellow taxi with black checks bounces gently" -o taxi.mp4
      lumiere generate --help
    \b
    What a training takes, before it is begun:
      lumiere inspect --params profiles/h100.yaml
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _option(*names: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, show_default=False)


@app.command(context_settings={"allow_extra_args": True})
def generate(
    context: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="What to see: a sentence, in quotes.", show_default=False
        ),
    ] = None,
    output: Annotated[
        str | None,
        _option(
            "--output",
            "-o",
            metavar="PATH",
            help="Where to write: *.mp4, *.webm, *.gif, *.webp; PNGs as fox-%03d.png or a folder, fox/. With "
            "--from-file a folder, or a name such as out/{name}.gif.",
        ),
    ] = None,
    image: Annotated[
        str | None, _option("--image", metavar="FILE", help="The first frame.")
    ] = None,
    last_image: Annotated[
        str | None,
        _option(
            "--last-image", metavar="FILE", help="The last frame, with or without a first one."
        ),
    ] = None,
    video: Annotated[
        str | None,
        _option(
            "--video", metavar="FILE", help="A video to change: all of it, or what --mask marks."
        ),
    ] = None,
    mask: Annotated[
        str | None,
        _option(
            "--mask",
            metavar="FILE|BOX",
            help="Where to generate: a picture or a video, white = generate, as large as the input; or a box "
            "x0,y0,x1,y1 in shares of the frame, such as 0.5,0,1,1 for the right half.",
        ),
    ] = None,
    cinemagraph: Annotated[
        bool,
        _option(
            "--cinemagraph",
            help="Move the masked region of --image. The two together mean it anyway.",
        ),
    ] = False,
    outpaint: Annotated[
        bool,
        _option(
            "--outpaint",
            help="Put --video into the middle of a larger frame, and make what surrounds it.",
        ),
    ] = False,
    strength: Annotated[
        str | None,
        _option(
            "--strength",
            metavar="0..1",
            help="How far --video without a mask [0.6], or --image as the start of every frame, may be left behind.",
        ),
    ] = None,
    style: Annotated[
        str | None, _option("--style", metavar="NAME", help="One of the model's styles.")
    ] = None,
    alpha: Annotated[
        str | None,
        _option(
            "--alpha", metavar="0..1", help="The style's weight [0.75]; the paper picks 0.5 to 1."
        ),
    ] = None,
    keep_known: Annotated[
        bool,
        _option(
            "--keep-known", help="Put the given pixels back exactly, after super-resolution too."
        ),
    ] = False,
    negative_prompt: Annotated[
        str | None, _option("--negative-prompt", metavar="TEXT", help="What to move away from.")
    ] = None,
    seed: Annotated[
        str | None,
        _option(
            "--seed",
            metavar="N",
            help="The same seed, the same video; by default a new one each time.",
        ),
    ] = None,
    num_videos: Annotated[
        str | None,
        _option("--num-videos", metavar="N", help="How many, with the seeds N, N + 1, ... [1]."),
    ] = None,
    frames: Annotated[
        str | None,
        _option(
            "--frames", metavar="N", help="How long; by default what the model was trained on."
        ),
    ] = None,
    steps: Annotated[
        str | None,
        _option(
            "--steps",
            metavar="N",
            help="Denoising steps of the base model; by default the model's.",
        ),
    ] = None,
    guidance: Annotated[
        str | None,
        _option(
            "--guidance",
            metavar="N",
            help="How strongly the text guides, from 1; default the model's.",
        ),
    ] = None,
    upscale: Annotated[
        bool | None,
        _option(
            "--upscale/--no-upscale", help="Super-resolution, or the base model's small frames."
        ),
    ] = None,
    model: Annotated[
        str | None,
        _option(
            "--model",
            metavar="FOLDER",
            help="A folder of LumierePipeline.save_pretrained, or `demo`. By default outputs/pipeline of the current "
            "folder, which `make demo` writes; where there is none, the demo weights that come with the repository.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        _option(
            "--device",
            metavar="NAME",
            help="cpu, cuda, cuda:1, ...; by default a GPU if there is one.",
        ),
    ] = None,
    from_file: Annotated[
        Path | None,
        _option(
            "--from-file",
            metavar="CSV",
            help="One video per row: the column prompt, and if wanted name and any of these options (image, "
            "last_image, ...). Other options hold for all rows. It continues where it stopped, and a row that fails "
            "does not stop the others; the exit code is then 1.",
        ),
    ] = None,
    from_json: Annotated[
        Path | None,
        _option(
            "--from-json",
            metavar="JSON",
            help="Make a video again from the settings beside it; other options change it.",
        ),
    ] = None,
    sheet: Annotated[
        bool, _option("--sheet", help="Write a contact sheet beside the video, *.sheet.png.")
    ] = False,
) -> None:
    """Make a video from text, pictures or a video.

    Beside fox.mp4 stands fox.json with all settings, enough to make it again.

    \b
    Examples; each uses what those above it made:
      lumiere generate "a yellow taxi bounces gently" -o taxi.mp4
      lumiere generate "a yellow taxi bounces gently" -o frames/ --seed 7
      lumiere generate "a red crab" -o crab.gif --num-videos 2 --sheet
    \b
    Image to video, from one picture or between two; a cinemagraph:
      lumiere generate "a yellow taxi" -o drive.mp4 --image frames/0000.png
      lumiere generate "a yellow taxi" -o between.mp4 \\
          --image frames/0000.png --last-image frames/0004.png
      lumiere generate "a yellow taxi" -o wheels.webm \\
          --image frames/0000.png --mask 0,0.6,1,1 --cinemagraph
    \b
    Inpainting, outpainting, video to video:
      lumiere generate "a blue bus" -o roof.mp4 --video taxi.mp4 --mask 0,0,1,0.5
      lumiere generate "a yellow taxi" -o wide.mp4 --video taxi.mp4 --outpaint
      lumiere generate "a blue bus" -o bus.mp4 --video taxi.mp4 --strength 0.7
    \b
    The same again, or with other options:
      lumiere generate --from-json taxi.json -o again.mp4
      lumiere generate "a blue taxi" --from-json taxi.json -o blue.mp4
    \b
    Many videos:
      printf 'name,prompt\\nfox,a red fox\\ncat,a black cat\\n' > prompts.csv
      lumiere generate --from-file prompts.csv -o videos/
    \b
    In a style; the demo weights have line-art:
      lumiere generate "an ink drawing of a fire engine" -o ink.mp4 \\
          --style line-art --alpha 0.8

    Exit codes: 0 made; 1 some rows of --from-file failed; 2 bad input, and nothing was written; 130 stopped.
    """
    options = {
        "prompt": prompt, "negative_prompt": negative_prompt, "image": image, "last_image": last_image, "video": video,
        "mask": mask, "cinemagraph": cinemagraph or None, "outpaint": outpaint or None, "strength": strength,
        "style": style, "alpha": alpha, "keep_known": keep_known or None, "frames": frames, "num_videos": num_videos,
        "seed": seed, "steps": steps, "guidance": guidance, "upscale": upscale,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models are folders; nothing is fetched
    try:
        if context.args:
            sentence = " ".join([prompt or "", *context.args])
            raise ValueError(f'more than one prompt; put the sentence in quotes: "{sentence}"')
        if prompt is None and from_file is None and from_json is None:
            raise ValueError(
                'no prompt; describe the video in a sentence, such as lumiere generate "a fox runs" -o fox.mp4'
            )
        if not output:
            what = (
                "file to write, such as -o fox.mp4"
                if from_file is None
                else "folder, such as -o videos/"
            )
            raise ValueError(f"no output; name the {what}")
        with _terminated_like_ctrl_c():
            if from_file is None:
                _generate_one(given, output, from_json, model, device, sheet)
                return
            failures = _generate_batch(given, output, from_file, from_json, model, device, sheet)
        raise typer.Exit(1 if failures else 0)
    except (LumiereError, ValueError, OSError) as error:
        _tell(f"error: {_sentence(error)}")
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt:
        _tell(
            "stopped; nothing is half-written"
            + ", and the same command continues" * (from_file is not None)
        )
        raise typer.Exit(STOPPED) from None


def _generate_one(
    given: dict[str, Any],
    output: str,
    from_json: Path | None,
    model: str | None,
    device: str | None,
    sheet: bool,
) -> None:
    from lumiere.cli.generate import Job, drift, run
    from lumiere.cli.model import Model
    from lumiere.requests import changed, make_request, option, read_settings

    settings = None if from_json is None else read_settings(from_json)
    if settings is not None:
        given, left_out = changed(settings, given)
        model = model or settings.get("model")
        if left_out:
            names = ", ".join(option(name) for name in left_out)
            _tell(
                f"note: {from_json}: left out, since it does not go with what is given now: {names}"
            )
    job = Job(make_request(given), output, sheet)
    job.check()
    chosen = Model.choose(model, device)
    _tell(f"model: {_described(chosen.folder)}")
    for note in drift(settings, job.request, chosen) if settings is not None else []:
        _tell(f"note: {note}; the video will not be the same")
    for path in run(job, chosen, _tell):
        typer.echo(path)


def _generate_batch(
    given: dict[str, Any],
    output: str,
    from_file: Path,
    from_json: Path | None,
    model: str | None,
    device: str | None,
    sheet: bool,
) -> dict[str, str]:
    from lumiere.cli.generate import Job, check_apart, check_style, run_batch
    from lumiere.cli.model import Model
    from lumiere.export import check_writable, target_of
    from lumiere.requests import read_rows

    if from_json is not None or "prompt" in given:
        raise ValueError(
            "--from-file takes its prompts from the file; leave out the prompt and --from-json"
        )
    for field in set(re.findall(r"\{.*?\}", output)) - {"{name}"}:
        raise ValueError(f"-o {output}: {field} is unknown; allowed: {{name}}")
    if "{name}" not in output:
        if Path(output).suffix and not Path(output).is_dir():
            raise ValueError(
                f"-o {output}: --from-file makes several videos; name a folder, or out/{{name}}.mp4"
            )
        output = os.path.join(output, "{name}.mp4")
    check_writable(target_of(output).beside.parent)
    rows = read_rows(from_file, given)
    jobs = [
        (
            name,
            row if isinstance(row, ValueError) else Job(row, output.replace("{name}", name), sheet),
        )
        for name, row in rows
    ]
    check_apart(from_file, jobs)
    chosen = Model.choose(model, device)
    _tell(f"model: {_described(chosen.folder)}")
    if "style" in given:
        check_style(given["style"], chosen)  # of all rows
    return run_batch(jobs, chosen, _tell, typer.echo)


def _described(folder: Path | None) -> str:
    return "the demo weights that come with lumiere" if folder is None else str(folder)


@contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does: nothing temporary is left behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _sentence(error: Exception) -> str:
    """What an error says, on one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path and its permissions"
    return one_line(error)


def _tell(line: str) -> None:
    """To the user; standard output has the names of the files and nothing else."""
    print(line, file=sys.stderr, flush=True)


app.command()(inspect)

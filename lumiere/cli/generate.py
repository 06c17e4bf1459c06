"""The command `lumiere generate`: turns its options into requests. `lumiere.cli.jobs` makes the
videos of one request, `lumiere.cli.batch` those of a prompts file.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lumiere.cli import options
from lumiere.cli.options import option

if TYPE_CHECKING:
    from lumiere.cli.batch import BatchRow
    from lumiere.cli.model import Model
    from lumiere.pipelines.input_files import Clips
    from lumiere.requests import Request

STOPPED = 130  # as a shell reports a command that Ctrl-C ended


def generate(
    context: typer.Context,
    prompt: options.Prompt = None,
    output: options.Output = None,
    image: options.Image = None,
    last_image: options.LastImage = None,
    video: options.Video = None,
    clip: options.Clip = None,
    mask: options.Mask = None,
    mode: options.Mode = None,
    cinemagraph: options.Cinemagraph = False,
    outpaint: options.Outpaint = False,
    strength: options.Strength = None,
    style: options.Style = None,
    alpha: options.Alpha = None,
    keep_known: options.KeepKnown = False,
    negative_prompt: options.NegativePrompt = None,
    seed: options.Seed = None,
    num_videos: options.NumVideos = None,
    frames: options.Frames = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    motion: options.Motion = None,
    smoothing: options.Smoothing = None,
    upscale: options.Upscale = None,
    model: options.ModelFolder = None,
    fast: options.Fast = False,
    device: options.Device = None,
    from_file: options.FromFile = None,
    from_json: options.FromJson = None,
    sheet: options.Sheet = False,
) -> None:
    """Make a video from text, pictures or a video.

    Beside taxi.mp4 it writes taxi.json with all settings. `--from-json taxi.json` makes the video again.

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
    The same video again, or with other options:
      lumiere generate --from-json taxi.json -o again.mp4
      lumiere generate "a blue taxi" --from-json taxi.json -o blue.mp4
    \b
    Many videos:
      printf 'name,prompt\\nfox,a red fox\\ncat,a black cat\\n' > prompts.csv
      lumiere generate --from-file prompts.csv -o videos/
    \b
    In a style; the demo weights have line-art, neon and sunset:
      lumiere generate "an ink drawing of a fire engine" -o ink.mp4 \\
          --style line-art --alpha 0.8

    Exit codes: 0 all videos were made; 1 some rows of --from-file failed; 2 the input is wrong, and nothing was
    written; 130 stopped.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models are folders; nothing is downloaded
    try:
        values = _request_values(context.params)  # every parameter above, by name
        _check_call(context.params, context.args)
        with terminated_like_ctrl_c():
            if from_file is None:
                _generate_one(values, context.params)
                return
            failures = _generate_batch(values, context.params)
        raise typer.Exit(1 if failures else 0)
    except KeyboardInterrupt:
        more = "" if from_file is None else "; run the same command again to continue"
        tell(f"stopped; nothing is half-written{more}")
        raise typer.Exit(STOPPED) from None


def tell(line: str) -> None:
    """Print to stderr, because stdout has the paths of the videos and nothing else."""
    print(line, file=sys.stderr, flush=True)


def show(place: Path) -> None:
    """Print the path of a video to stdout; if nobody reads stdout any more, go on without it."""
    try:
        typer.echo(place)
    except BrokenPipeError:  # what is still buffered must not raise again when Python exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- one video, or several of one request ----------------------------------------------------------------------------


def _generate_one(values: dict[str, Any], params: dict[str, Any]) -> None:
    from lumiere.cli.jobs import Job, find_drift, run
    from lumiere.cli.model import Model
    from lumiere.requests import change_request, make_request, read_sidecar

    path: Path | None = params["from_json"]
    content = {} if path is None else read_sidecar(path)
    is_named = bool(params["model"])
    # Another model than the sidecar's is fast only if the command says so.
    is_fast = params["fast"] or (content.get("fast", False) and not is_named)
    model = Model.choose(params["model"] or content.get("model"), params["device"], is_fast)
    if path is None:
        request = make_request(values)
    else:
        request, _ = change_request(content, values)
    Job(request, params["output"], params["sheet"]).check()
    clips = _clips_of(request.clip)
    tell(f"model: {model.description}")
    if path is not None:
        _ = model.pipe  # a model that cannot be loaded is an error before it is hashed
        request, left_out = _change_for_model(content, values, model, is_named)
        if left_out:
            names = ", ".join(option(name) for name in left_out)
            tell(f"note: {path}: left out, because the new options replace it: {names}")
        for note in find_drift(content, request, model, clips):
            tell(f"note: {note}; the video will differ")
    job = Job(request, params["output"], params["sheet"])
    for place in run(job, model, clips, tell):
        show(place)


def _change_for_model(
    content: dict[str, Any], values: dict[str, Any], model: Model, is_named: bool
) -> tuple[Request, list[str]]:
    """Return the changed request of a sidecar, and the fields left out. It hashes the model."""
    from lumiere.cli.jobs import settings_of_network
    from lumiere.requests import change_request

    settings, dropped = settings_of_network(content, model, is_named)
    request, replaced = change_request(settings, values)
    return request, [name for name in dropped if name not in values] + replaced


# --- many videos -----------------------------------------------------------------------------------------------------


def _generate_batch(values: dict[str, Any], params: dict[str, Any]) -> dict[str, str]:
    from lumiere.cli.batch import run_batch
    from lumiere.cli.jobs import check_style
    from lumiere.cli.model import Model

    _clips_of(values.get("clip"))  # once, as it is the same for all rows
    rows, clips = _open_row_clips(_read_rows(values, params))
    model: Model = Model.choose(params["model"], params["device"], params["fast"])
    tell(f"model: {model.description}")
    if "style" in values:
        check_style(values["style"], model)  # once, as it is the same for all rows
    return run_batch(rows, model, clips, tell, show)


def _read_rows(values: dict[str, Any], params: dict[str, Any]) -> list[BatchRow]:
    """Return the rows of a prompts file, with the jobs of those that can be used."""
    from lumiere.cli.batch import BatchRow, check_apart
    from lumiere.cli.jobs import Job
    from lumiere.cli.targets import check_writable, target_of
    from lumiere.requests import read_rows

    output = _batch_output(params["output"])
    check_writable(target_of(output).beside.parent)
    rows: list[BatchRow] = []
    for row in read_rows(params["from_file"], values):
        job = None
        if row.request is not None:
            job = Job(row.request, output.replace("{name}", row.name), params["sheet"])
        rows.append(BatchRow(row.name, job, row.problem))
    check_apart(params["from_file"], rows)
    return rows


def _open_row_clips(rows: list[BatchRow]) -> tuple[list[BatchRow], Clips | None]:
    """Open the training clips if a row names one; without them, only the rows that do fail."""
    from lumiere.cli.batch import BatchRow

    clips: Clips | None = None
    usable: list[BatchRow] = []
    for row in rows:
        if clips is None and row.job is not None:
            try:
                clips = _clips_of(row.job.request.clip)
            except ValueError as error:
                row = BatchRow(row.name, problem=str(error))
        usable.append(row)
    return usable, clips


def _batch_output(output: str) -> str:
    """Turn -o into the path for many videos, with {name} in it."""
    for field in set(re.findall(r"\{.*?\}", output)) - {"{name}"}:
        raise ValueError(f"-o {output}: {field} is unknown; allowed: {{name}}")
    if "{name}" in output:
        return output
    if Path(output).suffix and not Path(output).is_dir():
        raise ValueError(
            f"-o {output}: --from-file makes several videos; name a folder, or out/{{name}}.mp4"
        )
    return os.path.join(output, "{name}.mp4")


# --- parts -----------------------------------------------------------------------------------------------------------


def _request_values(params: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the request that the user has set."""
    from lumiere.requests.request import field_names

    values = {name: params[name] for name in field_names() if name != "name"}  # -o names the files
    modes = {"--cinemagraph": params["cinemagraph"], "--outpaint": params["outpaint"]}
    named = [name for name, is_set in {**modes, "--mode": params["mode"]}.items() if is_set]
    if len(named) > 1:
        raise ValueError(f"{' and '.join(named)} both name a mode; give one of them")
    if params["cinemagraph"]:
        values["mode"] = "cinemagraph"
    if params["outpaint"]:
        values["mode"] = "outpainting"
    values["keep_known"] = params["keep_known"] or None
    return {name: value for name, value in values.items() if value is not None}


def _check_call(params: dict[str, Any], extra_words: list[str]) -> None:
    prompt, from_file, from_json = params["prompt"], params["from_file"], params["from_json"]
    if extra_words:
        sentence = " ".join([prompt or "", *extra_words])
        raise ValueError(f'more than one prompt; put the sentence in quotes: "{sentence}"')
    if from_file is not None and (from_json is not None or prompt is not None):
        raise ValueError(
            "--from-file takes its prompts from the file; leave out the prompt and --from-json"
        )
    if prompt is None and from_file is None and from_json is None:
        raise ValueError(
            'no prompt; describe the video in a sentence, such as lumiere generate "a fox runs" -o fox.mp4'
        )
    if not params["output"]:
        example = "file to write, such as -o fox.mp4"
        if from_file is not None:
            example = "folder, such as -o videos/"
        raise ValueError(f"no output; name the {example}")


def _clips_of(clip: str | None) -> Clips | None:
    """Return the training clips of the current project, if a request needs them."""
    from lumiere.cli.model import PROJECT_CLIPS
    from lumiere.pipelines.input_files import open_clips

    return None if clip is None else open_clips(PROJECT_CLIPS, clip)


@contextmanager
def terminated_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM end the work as Ctrl-C does, so that nothing temporary is left behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

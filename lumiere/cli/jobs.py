"""Does the work of `lumiere generate`: makes the videos of a request, and writes them with their
settings.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumiere.cli.model import Model, ModelError
from lumiere.cli.options import option
from lumiere.cli.staging import Move, staging, swap
from lumiere.cli.targets import Target, check_writable, target_of
from lumiere.data.contact_sheets import contact_sheet, save_picture
from lumiere.errors import LumiereError, first_line
from lumiere.requests import MAX_FRAMES, Request, count_frames, is_sidecar, sidecar

if TYPE_CHECKING:
    import numpy as np

    from lumiere.pipelines.input_files import Clips

SHEET_FRAMES = 16

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A request and where its videos go.

    Attributes:
        output: the value of -o.
        sheet: whether to write a contact sheet beside each video.
    """

    request: Request
    output: str
    sheet: bool = False

    @property
    def targets(self) -> list[Target]:
        """One per video. Several videos have their number in the name."""
        num_videos = self.request.num_videos
        if num_videos == 1:
            return [target_of(self.output)]
        return [target_of(self.output, i + 1) for i in range(num_videos)]

    def check(self) -> None:
        """Raise ValueError if the videos cannot be written, or would replace something else."""
        inputs = {path.resolve(): name for name, path in self.request.input_files().items()}
        for target in self.targets:
            check_writable(target.beside.parent)
            if target.is_sequence:
                _check_pictures_apart(target, inputs)
            for path in (*target.files(1), target.sidecar, target.sheet):
                if name := inputs.get(path.resolve()):
                    raise ValueError(f"{path} is also {option(name)}; choose another name with -o")
                if path.is_dir():
                    raise ValueError(f"{path} is a folder; choose another name with -o")
            if target.sidecar.is_file() and _read_sidecar(target.sidecar) is None:
                raise ValueError(
                    f"{target.sidecar} is in the way, and was not written by lumiere; choose another "
                    "name with -o"
                )
            if target.has_folder:
                _check_folder(target)

    def is_done(self, model: Model, clips: Clips | None) -> bool:
        """Return whether all files exist, made from this request with the same model and the
        same inputs.
        """
        asked = _describe_request(self.request, model, clips)
        for target in self.targets:
            content = _read_sidecar(target.sidecar) or {}
            files = target.files(_num_frames(content))
            if self.sheet:
                files.append(target.sheet)
            if content.get("asked") != asked or not all(path.is_file() for path in files):
                return False
        return True


BatchRow = tuple[str, Job | str]
"""The name of a row and its job, or what is wrong with the row."""


@dataclass(frozen=True)
class _Result:
    """A finished video, uint8 (t, h, w, 3), and its sidecar."""

    target: Target
    frames: np.ndarray
    content: dict[str, Any]


def run(job: Job, model: Model, clips: Clips | None, tell: Tell) -> list[Path]:
    """Make and write the videos of one job.

    Args:
        job: what to make, and where to write it.
        model: makes it.
        clips: the training clips, if the request names one.
        tell: receives messages for the user.

    Returns:
        The files, patterns or folders of the videos.

    Raises:
        ValueError: if an input cannot be used, a place cannot be written, or memory runs out; the
            message says how to fix it.
    """
    job.check()
    with _out_of_memory_as_value_error():
        results, fps = _make(job, model, clips, tell)
        _write(results, fps, job.sheet)
    for result in results:
        _, height, width, _ = result.frames.shape
        tell(
            f"{result.target.place}: {count_frames(len(result.frames))} of {width} x {height}, "
            f"seed {result.content['seed']}{_fidelity(result.content)}"
        )
    return [target.place for target in job.targets]


def _make(job: Job, model: Model, clips: Clips | None, tell: Tell) -> tuple[list[_Result], int]:
    """Make the videos of a job; return them and their frames per second."""
    import torch

    from lumiere.data.pixel_values import from_unit_range
    from lumiere.pipelines.run_request import (
        check_request,
        complete_request,
        describe_output,
        run_request,
    )

    request = job.request
    asked = _describe_request(request, model, clips)
    if request.style is not None:
        check_style(request.style, model)
    pixels = check_request(model.pipe, request, clips)
    for note in pixels.notes:
        tell(f"note: {note}")
    request = complete_request(model.pipe, request, pixels.num_frames, secrets.randbits(32))
    assert request.seed is not None
    output = run_request(model.pipe, request, pixels.arguments)
    results = []
    for i, (target, video) in enumerate(zip(job.targets, output.frames, strict=True)):
        # Each of several videos can be made again alone, because only its seed differs.
        own = replace(request, name=target.beside.name, seed=request.seed + i, num_videos=1)
        made = {
            **describe_output(model.pipe, output, i),
            "model_sha256": model.digest,
            "files_sha256": asked["files_sha256"],
            "model": model.name,
            "device": model.device,
            "torch": torch.__version__,
            "asked": asked,
        }
        results.append(_Result(target, from_unit_range(video), sidecar(own, made)))
    return results, output.fps


def check_apart(table: Path, jobs: list[BatchRow]) -> None:
    """Raise ValueError if two rows would write the same file."""
    writers: dict[Path, str] = {}
    for name, job in jobs:
        if isinstance(job, str):
            continue
        for target in job.targets:
            other = writers.setdefault(target.beside, name)
            if other != name:
                raise ValueError(
                    f"{table}: {other!r} and {name!r} would both write {target.place}; rename one of them"
                )


def run_batch(
    jobs: list[BatchRow],
    model: Model,
    clips: Clips | None,
    tell: Tell,
    show: Callable[[Path], None],
) -> dict[str, str]:
    """Make the videos that do not exist yet. A job that fails does not stop the others.

    Args:
        jobs: by name.
        model: makes all of them.
        clips: the training clips, if a request names one.
        tell: receives messages for the user.
        show: receives the path of each video, whether it is made now or existed before.

    Returns:
        The errors, by name.

    Raises:
        ModelError: if the model cannot make any of them.
    """
    failures: dict[str, str] = {}
    num_existing = 0
    for number, (name, job) in enumerate(jobs, 1):
        tell(f"[{number}/{len(jobs)}] {name}")
        try:
            if isinstance(job, str):
                raise ValueError(job)
            if job.is_done(model, clips):
                num_existing += 1
                tell("already there")
            else:
                run(job, model, clips, tell)
            for target in job.targets:
                show(target.place)
        except ModelError:
            raise
        except Exception as error:  # whatever it is, the other rows may be fine
            failures[name] = first_line(error)
            if not isinstance(error, (LumiereError, ValueError)):
                failures[name] = f"{type(error).__name__}: {first_line(error)}"
            tell(f"failed: {failures[name]}")
    num_made = len(jobs) - num_existing - len(failures)
    tell(f"{num_made} made, {num_existing} already there, {len(failures)} failed")
    for name, problem in failures.items():
        tell(f"  {name}: {problem}")
    return failures


def check_style(style: str, model: Model) -> None:
    """Raise ValueError if the model has no style of that name."""
    styles = model.pipe.styles
    if style not in styles:
        cure = "it has none; --model demo has line-art"
        if len(styles):
            cure = f"it has {', '.join(styles)}"
        raise ValueError(f"--style {style}: the model {model.name} has no such style; {cure}")


def find_drift(
    content: dict[str, Any], request: Request, model: Model, clips: Clips | None
) -> list[str]:
    """List the reasons why a video made again from its sidecar will differ, as far as they can
    be told.
    """
    from lumiere.pipelines.input_files import hash_inputs

    notes = []
    if content.get("model_sha256") != model.digest:
        notes.append(f"{model.description} is not the model that made it")
    old_hashes = content.get("files_sha256", {})
    for name, digest in hash_inputs(request, clips).items():
        source = str(getattr(request, name))
        old_source = content.get(name)
        if name != "clip" and old_source:
            old_source = os.path.abspath(old_source)
        # If the user has replaced an input, it is supposed to differ.
        if source == old_source and digest != old_hashes.get(name):
            notes.append(f"{option(name)} {source} is not the one that it was made from")
    return notes


# --- writing ---------------------------------------------------------------------------------------------------------


def _write(results: list[_Result], fps: int, sheet: bool) -> None:
    """Write videos, contact sheets and sidecars: either all of them or none.

    Raises:
        ValueError: if they cannot be written; the files of an earlier run are still there.
    """
    first = results[0].target
    try:
        with staging(first.beside.parent) as aside:
            moves = []
            for number, result in enumerate(results):
                moves += _stage(result, fps, sheet, aside / str(number))
            swap(moves, aside)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise ValueError(
            f"{first.place}: cannot be written ({reason}); choose another place with -o"
        ) from None


def _stage(result: _Result, fps: int, sheet: bool, aside: Path) -> list[Move]:
    """Write one video, its contact sheet and its sidecar below `aside`; return the moves, in
    order.
    """
    target, frames = result.target, result.frames
    old = _read_sidecar(target.sidecar)
    aside.mkdir()
    # A sidecar must never be beside the wrong video, not even for a moment. So the old sidecar goes
    # first, and the new one comes last.
    moves: list[Move] = [(None, target.sidecar), *target.stage(aside, frames, fps)]
    if old is not None and not target.has_folder:
        longer = target.files(_num_frames(old))[len(frames) :]
        moves += [(None, file) for file in longer]
    if sheet:
        new_sheet = aside.with_name(f"{aside.name}.sheet.png")
        save_picture(contact_sheet(_spread(frames)), new_sheet)
        moves.append((new_sheet, target.sheet))
    elif old is not None:
        moves.append((None, target.sheet))
    new_sidecar = aside.with_name(f"{aside.name}.json")
    text = json.dumps(result.content, indent=2, ensure_ascii=False) + "\n"
    new_sidecar.write_text(text, encoding="utf-8")
    return [*moves, (new_sidecar, target.sidecar)]


def _check_pictures_apart(target: Target, inputs: dict[Path, str]) -> None:
    """Raise ValueError if a picture to start from is in the folder that the frames go to."""
    folder = target.path.parent.resolve()
    for path, name in inputs.items():
        if path.parent == folder and path.suffix == ".png":
            raise ValueError(
                f"{option(name)} {path} is in the folder that the frames go to; choose another with -o"
            )


def _check_folder(target: Target) -> None:
    """Raise ValueError if the folder has other files in it, because the whole folder is
    replaced.
    """
    folder = target.path.parent
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link; name the folder itself with -o")
    ours = set(target.files(_num_frames(_read_sidecar(target.sidecar) or {})))
    others = sorted(set(folder.iterdir()) - ours) if folder.is_dir() else []
    if others:
        raise ValueError(
            f"{folder} has files that lumiere did not write, such as {others[0].name}; name a new folder with -o, or a "
            f"file in this one, such as {folder / 'fox.mp4'}"
        )


# --- parts ----------------------------------------------------------------------------------------------------------


def _describe_request(request: Request, model: Model, clips: Clips | None) -> dict[str, Any]:
    """Everything that a video depends on, except for what is drawn at random."""
    from lumiere.pipelines.input_files import hash_inputs

    values = {name: value for name, value in request.as_values().items() if value is not None}
    del values["name"]
    hashes = hash_inputs(request, clips)
    return {**values, "model_sha256": model.digest, "files_sha256": hashes}


@contextmanager
def _out_of_memory_as_value_error() -> Iterator[None]:
    """Turn an out-of-memory error into a ValueError that says what to reduce."""
    import torch

    from lumiere.diffusion.memory import is_out_of_memory

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise ValueError(
            "out of memory; ask for less with --frames or --num-videos, or skip super-resolution with --no-upscale"
        ) from None


def _fidelity(content: dict[str, Any]) -> str:
    psnr = content["known_psnr"]
    if psnr is None:
        return ""
    if content["keep_known"]:
        return f"; the given pixels are put back exactly, from {psnr} dB"
    if psnr > 60:  # an error of a quarter of an 8-bit step
        return "; the given pixels are unchanged"
    return f"; the given pixels are kept at {psnr} dB, see --keep-known"


def _spread(frames: np.ndarray) -> np.ndarray:
    """Return at most `SHEET_FRAMES` of the frames, evenly spread, including the first and the
    last.
    """
    count = min(SHEET_FRAMES, len(frames))
    indices = [round(i * (len(frames) - 1) / max(1, count - 1)) for i in range(count)]
    return frames[indices]


def _num_frames(content: dict[str, Any]) -> int:
    """Return the number of pictures of a sequence according to its sidecar; 0 if it does not
    say.
    """
    frames = content.get("frames")
    return frames if isinstance(frames, int) and 0 < frames <= MAX_FRAMES else 0


def _read_sidecar(path: Path) -> dict[str, Any] | None:
    """Return the content of a sidecar; None if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if is_sidecar(content) else None

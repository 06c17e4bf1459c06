"""What `lumiere generate` does with a request: load the model, make the videos, write them and how they were made."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumiere.cli.model import Model, ModelError
from lumiere.data.contact_sheets import contact_sheet, save_picture
from lumiere.errors import first_line
from lumiere.export import Move, Target, check_writable, staging, swap, target_of
from lumiere.files import content_hash
from lumiere.requests import (
    DEFAULT_ALPHA,
    DEFAULT_STRENGTH,
    FROM_A_PICTURE,
    MOST_FRAMES,
    Request,
    counted,
    is_settings,
    option,
)
from lumiere.version import __version__

if TYPE_CHECKING:
    import numpy as np

    from lumiere.pipelines import LumierePipeline

SHEET_FRAMES = 16
MOST_DECIBELS = 99.0  # for pixels that are exact, too, since JSON has no infinity
# Settings that no option sets; they are the model's own.
MODEL_SETTINGS = (
    "fps", "guidance_rescale", "ssr_steps", "ssr_window_size", "ssr_overlap", "prediction_type",
)  # fmt: skip

Tell = Callable[[str], None]
Result = tuple[Target, "np.ndarray", dict[str, Any]]
"""Where a video goes, its frames, uint8 (t, h, w, 3), and its settings."""


@dataclass(frozen=True)
class Job:
    """A request and where its videos go."""

    request: Request
    output: str
    sheet: bool = False

    @property
    def targets(self) -> list[Target]:
        """One per video; several have their number in the name."""
        num_videos = self.request.num_videos
        return [
            target_of(self.output, i + 1 if num_videos > 1 else None) for i in range(num_videos)
        ]

    def check(self) -> None:
        """Raises ValueError where the videos cannot be written, or would take the place of something else."""
        inputs = {path.resolve(): name for name, path in self.request.input_files().items()}
        for target in self.targets:
            check_writable(target.beside.parent)
            for given, what in inputs.items():
                if (
                    target.is_sequence
                    and given.parent == target.path.parent.resolve()
                    and given.suffix == ".png"
                ):
                    raise ValueError(
                        f"{option(what)} {given} lies where the pictures go; choose another folder with -o"
                    )
            for path in (*target.files(1), target.settings, target.sheet):
                if name := inputs.get(path.resolve()):
                    raise ValueError(f"{path} is also {option(name)}; choose another name with -o")
                if path.is_dir():
                    raise ValueError(f"{path} is a folder; choose another name with -o")
            if target.settings.is_file() and _read_json(target.settings) is None:
                raise ValueError(
                    f"{target.settings} is in the way, and was not written by lumiere; choose another name with -o"
                )
            if target.has_folder:
                _check_folder(target)

    def is_done(self, model: Model) -> bool:
        """Whether all its files are there, made as it asks from the same model and the same inputs."""
        asked = _asked(self.request, model)
        for target in self.targets:
            settings = _read_json(target.settings) or {}
            files = target.files(_num_frames(settings)) + [target.sheet] * self.sheet
            if settings.get("asked") != asked or not all(path.is_file() for path in files):
                return False
        return True


def run(job: Job, model: Model, tell: Tell) -> list[Path]:
    """Make and write the videos of one job.

    Returns:
        What was written: files, patterns or folders; settings and contact sheets aside.

    Raises:
        ValueError: on input that cannot be used, a place that cannot be written, or too little memory; with the cure.
    """
    job.check()
    with _memory_told():
        return _run(job, model, tell)


def _run(job: Job, model: Model, tell: Tell) -> list[Path]:
    import torch

    from lumiere.cli.input_files import read_pixels
    from lumiere.data.pixel_values import from_unit_range
    from lumiere.diffusion.latents import LatentSpace

    pipe, request = model.pipe, job.request
    asked = _asked(request, model)
    if request.style is not None:
        check_style(request.style, model)
        pipe.styles.check(request.style, DEFAULT_ALPHA if request.alpha is None else request.alpha)
    frame_size = LatentSpace(pipe.vae).frame_size(None, None, pipe.unet.unet.config.sample_size)
    pixels, num_frames, notes = read_pixels(
        request, pipe.config.fps, pipe.config.num_frames, frame_size
    )
    for note in notes:
        tell(f"note: {note}")
    request = _resolved(request, pipe, num_frames, secrets.randbits(32))
    assert request.seed is not None
    output: Any = pipe(
        request.prompt,
        negative_prompt=request.negative_prompt,
        num_frames=num_frames,
        mode=request.mode,
        # Of a video, or of a picture: the pipeline looks at the one that is given.
        strength=DEFAULT_STRENGTH if request.strength is None else request.strength,
        image_strength=request.strength,
        keep_known=request.keep_known,
        style=request.style,
        alpha=DEFAULT_ALPHA if request.alpha is None else request.alpha,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        num_videos_per_prompt=request.num_videos,
        upscale=bool(request.upscale),
        generator=[
            torch.Generator().manual_seed(request.seed + i) for i in range(request.num_videos)
        ],
        **pixels,
    )
    base = output.frames if output.base_frames is None else output.base_frames
    made = {
        "mode": output.mode,
        "size": list(output.frames.shape[-2:]),
        "base_size": list(base.shape[-2:]),
        **{name: pipe.config[name] for name in MODEL_SETTINGS},
        "fps": output.fps,
        "device": model.device,
        "torch": torch.__version__,
        "model": model.name,
        "model_sha256": model.digest,
        "files_sha256": asked["files_sha256"],
        "asked": asked,
    }
    results: list[Result] = []
    for i, (target, video) in enumerate(zip(job.targets, output.frames, strict=True)):
        frames = from_unit_range(video)  # (t, h, w, c)
        # A video of several is made again alone: its own seed is all that told it from the others.
        own = replace(request, seed=request.seed + i, num_videos=1)
        settings = {
            "lumiere": __version__,
            **{field.name: getattr(own, field.name) for field in fields(own)},
            "known_psnr": _decibels(output.known_psnr, i),
            **made,
        }
        results.append((target, frames, settings))
    _write(results, output.fps, job.sheet)
    for target, frames, settings in results:
        size = f"{frames.shape[2]} x {frames.shape[1]}"
        tell(
            f"{target.place}: {counted(len(frames))} of {size}, seed {settings['seed']}{_fidelity(settings)}"
        )
    return [target.place for target in job.targets]


def check_apart(table: Path, jobs: list[tuple[str, Job | ValueError]]) -> None:
    """Raises ValueError where two rows would write the same file."""
    writers: dict[Path, str] = {}
    for name, job in jobs:
        if isinstance(job, ValueError):
            continue
        for target in job.targets:
            other = writers.setdefault(target.beside, name)
            if other != name:
                raise ValueError(
                    f"{table}: {other!r} and {name!r} would both write {target.place}; rename one of them"
                )


def run_batch(
    jobs: list[tuple[str, Job | ValueError]], model: Model, tell: Tell, show: Callable[[Path], None]
) -> dict[str, str]:
    """Make what is not there yet; a job that fails does not stop the others.

    Args:
        jobs: with their names, or what is wrong with them.
        model: for all of them.
        tell: takes what is of interest on the way.
        show: takes what `run` returns, made now or before.

    Returns:
        What went wrong, by name.

    Raises:
        ModelError: where no job can be done.
    """
    failures: dict[str, str] = {}
    there = 0
    for number, (name, job) in enumerate(jobs, 1):
        tell(f"[{number}/{len(jobs)}] {name}")
        try:
            if isinstance(job, ValueError):
                raise job
            if job.is_done(model):
                there += 1
                tell("already there")
            else:
                run(job, model, tell)
        except ModelError:
            raise
        except ValueError as error:
            failures[name] = first_line(error)
        except Exception as error:  # whatever it is, the other rows may be fine
            failures[name] = f"{type(error).__name__}: {first_line(error)}"
        if name in failures:
            tell(f"failed: {failures[name]}")
        elif isinstance(job, Job):
            for target in job.targets:
                show(target.place)
    tell(f"{len(jobs) - there - len(failures)} made, {there} already there, {len(failures)} failed")
    for name, reason in failures.items():
        tell(f"  {name}: {reason}")
    return failures


def check_style(style: str, model: Model) -> None:
    """Raises ValueError where the model has no style of that name."""
    styles = model.pipe.styles
    if style not in styles:
        cure = (
            f"it has {', '.join(styles)}"
            if len(styles)
            else "it has none; --model demo has line-art"
        )
        raise ValueError(f"--style {style}: the model {model.name} has no such style; {cure}")


def drift(settings: dict[str, Any], request: Request, model: Model) -> list[str]:
    """Why a video made again from its settings will not be the same, as far as can be told."""
    notes = []
    if settings.get("model_sha256") != model.digest:
        notes.append(f"the model in {model.name} is not the one that made it")
    hashes = settings.get("files_sha256", {})
    for name, path in request.input_files().items():
        # Another file than that of the settings is the user's choice.
        if settings.get(name) == str(path) and hashes.get(name) != content_hash(path):
            notes.append(f"{option(name)} {path} is not the file that it was made from")
    return notes


# --- parts -----------------------------------------------------------------------------------------------------------


@contextmanager
def _memory_told() -> Iterator[None]:
    """Turns a lack of memory into a ValueError with the cure."""
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
            "out of memory; ask for less with --frames or --num-videos, or leave super-resolution out with --no-upscale"
        ) from None


def _write(results: list[Result], fps: int, sheet: bool) -> None:
    """Videos, contact sheets and settings, all of them or none.

    Raises:
        ValueError: where they cannot be written, and with what is there left as it is.
    """
    first = results[0][0]
    try:
        with staging(first.beside.parent) as aside:
            moves = []
            for number, result in enumerate(results):
                moves += _staged(result, fps, sheet, aside / str(number))
            swap(moves, aside)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise ValueError(
            f"{first.place}: cannot be written ({reason}); choose another place with -o"
        ) from None


def _staged(result: Result, fps: int, sheet: bool, aside: Path) -> list[Move]:
    """Write one video, its contact sheet and its settings below `aside`; what is to go where, and in which order."""
    target, frames, settings = result
    before = _read_json(target.settings)
    aside.mkdir()
    # Settings never stand beside another video, not even for a moment: the old ones go first, the new ones come last.
    moves: list[Move] = [(None, target.settings), *target.stage(aside, frames, fps)]
    if before is not None and not target.has_folder:  # of a longer sequence of ours
        moves += [(None, file) for file in target.files(_num_frames(before))[len(frames) :]]
    new_sheet, new_settings = (
        aside.with_name(f"{aside.name}.{suffix}") for suffix in ("sheet.png", "json")
    )
    if sheet:
        save_picture(contact_sheet(_spread(frames)), new_sheet)
        moves.append((new_sheet, target.sheet))
    elif before is not None:
        moves.append((None, target.sheet))
    new_settings.write_text(
        json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return [*moves, (new_settings, target.settings)]


def _check_folder(target: Target) -> None:
    """Raises ValueError where a folder for pictures has anything else in it: the folder is replaced as a whole."""
    folder = target.path.parent
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link; name the folder itself with -o")
    ours = set(target.files(_num_frames(_read_json(target.settings) or {})))
    others = sorted(set(folder.iterdir()) - ours) if folder.is_dir() else []
    if others:
        raise ValueError(
            f"{folder} has files that lumiere did not write, such as {others[0].name}; name a new folder with -o, or a "
            f"file in this one, such as {folder / 'fox.mp4'}"
        )


def _asked(request: Request, model: Model) -> dict[str, Any]:
    """All that a video depends on, but for what is drawn."""
    hashes = {name: content_hash(path) for name, path in request.input_files().items()}
    return {**request.asked(), "model_sha256": model.digest, "files_sha256": hashes}


def _resolved(request: Request, pipe: LumierePipeline, num_frames: int, seed: int) -> Request:
    """With the model's own settings where none are asked for."""
    return replace(
        request,
        negative_prompt=request.negative_prompt or "",
        frames=num_frames,
        seed=seed if request.seed is None else request.seed,
        steps=pipe.config.num_inference_steps if request.steps is None else request.steps,
        guidance=pipe.config.guidance_scale if request.guidance is None else request.guidance,
        upscale=pipe.ssr_unet is not None and request.upscale is not False,
        alpha=DEFAULT_ALPHA if request.style and request.alpha is None else request.alpha,
        strength=_strength(request, pipe),
    )


def _strength(request: Request, pipe: LumierePipeline) -> float | None:
    if request.strength is not None:
        return request.strength
    if request.mode in FROM_A_PICTURE:
        return pipe.config.image_strength
    return DEFAULT_STRENGTH if request.mode == "video_to_video" else None


def _decibels(values: Any, index: int) -> float | None:
    """How well the given pixels of a video were kept; None where there are none."""
    value = math.nan if values is None else float(values[index])
    return None if math.isnan(value) else round(min(MOST_DECIBELS, value), 1)


def _fidelity(settings: dict[str, Any]) -> str:
    if settings["known_psnr"] is None:
        return ""
    if settings["keep_known"]:
        return f"; the given pixels are put back exactly, from {settings['known_psnr']} dB"
    if settings["known_psnr"] > 60:  # an error of a quarter of an 8-bit step
        return "; the given pixels come back as they were"
    return f"; the given pixels come back at {settings['known_psnr']} dB, see --keep-known"


def _spread(frames: Any) -> Any:
    """At most `SHEET_FRAMES` of the frames, first and last among them."""
    count = min(SHEET_FRAMES, len(frames))
    return frames[[round(i * (len(frames) - 1) / max(1, count - 1)) for i in range(count)]]


def _num_frames(settings: dict[str, Any]) -> int:
    """How many pictures a sequence of ours has; 0 where its settings do not tell."""
    frames = settings.get("frames")
    return frames if isinstance(frames, int) and 0 < frames <= MOST_FRAMES else 0


def _read_json(path: Path) -> dict[str, Any] | None:
    """A settings file's content, or None where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if is_settings(content) else None

"""A job of `lumiere generate`: makes the videos of one request, and writes them with their settings."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumiere.cli.model import Model
from lumiere.cli.options import option
from lumiere.cli.targets import Target, target_of
from lumiere.cli.writing import FinishedVideo, check_replaceable, files_of, write_videos
from lumiere.plurals import counted
from lumiere.requests import Request, find_sidecar, sidecar

if TYPE_CHECKING:
    from lumiere.pipelines.input_files import Clips

Tell = Callable[[str], None]
FAST_SETTINGS = ("steps", "guidance")  # what a distilled network was made for
# Settings that suit one model, and that a sidecar has even if the user left them to the model.
OWN_SETTINGS = (*FAST_SETTINGS, "motion", "smoothing", "upscale", "strength")


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
        """The destinations, one per video; with several videos, each name has a number."""
        num_videos = self.request.num_videos
        if num_videos == 1:
            return [target_of(self.output)]
        return [target_of(self.output, i + 1) for i in range(num_videos)]

    def check(self) -> None:
        """Raise ValueError if the videos cannot be written, or would replace something else."""
        inputs = {path.resolve(): name for name, path in self.request.input_files().items()}
        for target in self.targets:
            check_replaceable(target, inputs)

    def is_done(self, model: Model, clips: Clips | None) -> bool:
        """Return whether all files exist, made from this request with the same model and the
        same inputs.
        """
        asked = _describe_request(self.request, model, clips)
        for target in self.targets:
            content = find_sidecar(target.sidecar) or {}
            files = files_of(target, content)
            if self.sheet:
                files.append(target.sheet)
            if content.get("asked") != asked or not all(path.is_file() for path in files):
                return False
        return True


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
        videos, fps = _make(job, model, clips, tell)
        write_videos(videos, fps, job.sheet)
    for video in videos:
        _, height, width, _ = video.frames.shape
        tell(
            f"{video.target.place}: {counted(len(video.frames), 'frame')} of {width} x {height}, "
            f"seed {video.sidecar['seed']}{_fidelity(video.sidecar)}"
        )
    return [target.place for target in job.targets]


def _make(
    job: Job, model: Model, clips: Clips | None, tell: Tell
) -> tuple[list[FinishedVideo], int]:
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
    if model.is_fast:
        check_fast(request, model)
    pixels = check_request(model.pipe, request, clips, can_take_more_steps=not model.is_fast)
    for note in pixels.notes:
        tell(f"note: {note}")
    request = complete_request(model.pipe, request, pixels.num_frames, secrets.randbits(32))
    assert request.seed is not None
    output = run_request(model.pipe, request, pixels.arguments)
    videos = []
    for i, (target, frames) in enumerate(zip(job.targets, output.frames, strict=True)):
        # Each of several videos can be made again alone, because only its seed differs.
        own = replace(request, name=target.beside.name, seed=request.seed + i, num_videos=1)
        made = {
            **describe_output(model.pipe, output, i),
            "model_sha256": model.digest,
            "files_sha256": asked["files_sha256"],
            "model": model.name,
            "fast": model.is_fast,
            "device": model.device,
            "ssr_dtype": model.ssr_dtype,
            "torch": torch.__version__,
            "asked": asked,
        }
        videos.append(FinishedVideo(target, from_unit_range(frames), sidecar(own, made)))
    return videos, output.fps


def check_style(style: str, model: Model) -> None:
    """Raise ValueError if the model has no style of that name."""
    styles = model.pipe.styles
    if style not in styles:
        cure = "it has none; --model demo has line-art"
        if model.is_fast:
            cure = "its distilled network has none; leave out --fast"
        if len(styles):
            cure = f"it has {', '.join(styles)}"
        raise ValueError(f"--style {style}: the model {model.name} has no such style; {cure}")


def check_fast(request: Request, model: Model) -> None:
    """Raise ValueError if a request asks for other steps, or another guidance, than the distilled
    network was made for, or for a negative prompt, which needs guidance.
    """
    if (request.negative_prompt or "").strip():
        name = option("negative_prompt")
        raise ValueError(
            f"{name}: the distilled network works without guidance, so it cannot avoid anything; "
            f"leave out {name} or --fast"
        )
    config = model.pipe.config
    needed = (config.num_inference_steps, config.guidance_scale)
    for name, value in zip(FAST_SETTINGS, needed, strict=True):
        if getattr(request, name) not in (None, value):
            raise ValueError(
                f"{option(name)} {getattr(request, name):g}: the distilled network needs {value:g}; "
                f"leave out {option(name)} or --fast"
            )


def settings_of_network(
    content: dict[str, Any], model: Model, is_named: bool
) -> tuple[dict[str, Any], list[str]]:
    """Drop settings of a sidecar that may not suit the model of the new video.

    A distilled network decides steps and guidance itself, and those of a distilled network suit no
    other. Without guidance, there is no negative prompt either. Another model has settings of its
    own, which replace those that the user had left to the first model. The number of frames stays,
    because the video is to be the same one, and any model makes any number.

    Args:
        content: the content of the sidecar.
        model: makes the new video.
        is_named: whether the user names the model for the new video. If not, it is the sidecar's,
            maybe in a later version, which keeps the settings of the first one, or with its
            distilled network, which keeps those that the user chose.

    Returns:
        The rest of the content, and the fields that no longer hold.
    """
    changes_network = content.get("fast", False) != model.is_fast
    is_same = content.get("model_sha256") == model.digest
    dropped = _decided_by_networks(content.get("fast", False), model.is_fast)
    # Where the model is the same, or its other network, they are equal. They are dropped all the
    # same, so that the new sidecar does not have them in `asked`.
    unasked: list[str] = []
    if is_named or is_same or changes_network:
        asked = content.get("asked", {} if is_named and not is_same else content)
        unasked = [name for name in _own_settings(content) if name not in (*asked, *dropped)]
    kept = {name: value for name, value in content.items() if name not in (*dropped, *unasked)}
    if is_same or not (is_named or changes_network):
        return kept, []
    noted = [*dropped, *unasked] if is_named else dropped
    return kept, _filled(content, noted)


def find_drift(
    content: dict[str, Any], request: Request, model: Model, clips: Clips | None
) -> list[str]:
    """List the known reasons why a video made again from its sidecar will differ."""
    from lumiere.pipelines.input_files import hash_inputs

    notes = []
    if content.get("model_sha256") != model.digest:
        notes.append(f"{model.description} is not the model that made it")
    old_dtype = content.get("ssr_dtype", model.ssr_dtype)
    if old_dtype != model.ssr_dtype:
        notes.append(f"super-resolution computes in {model.ssr_dtype} here, not in {old_dtype}")
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


# --- parts ----------------------------------------------------------------------------------------------------------


def _filled(content: dict[str, Any], names: list[str]) -> list[str]:
    """Return those of the fields that a sidecar gives a value."""
    return [name for name in names if content.get(name) not in (None, "")]


def _decided_by_networks(was_fast: bool, is_fast: bool) -> list[str]:
    """Return the settings that a distilled network decides, be it that of a sidecar or the new one."""
    decided = [*FAST_SETTINGS] if was_fast or is_fast else []
    return [*decided, "negative_prompt"] if is_fast else decided


def _own_settings(content: dict[str, Any]) -> list[str]:
    """Return the settings of a sidecar that depend on its model if the user does not choose them.

    The strength of video to video has the same default with all models.
    """
    if content.get("mode") == "video_to_video":
        return [name for name in OWN_SETTINGS if name != "strength"]
    return list(OWN_SETTINGS)


def _describe_request(request: Request, model: Model, clips: Clips | None) -> dict[str, Any]:
    """Return everything that a video depends on, except for what is drawn at random."""
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

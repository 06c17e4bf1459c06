"""Pictures, videos and masks from files, for the command line: read strictly, since a guess would show in the video."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from lumiere.data.video_io import read_video
from lumiere.errors import VideoError
from lumiere.pipelines.pixels import DEEP_MODES
from lumiere.requests import Request, counted, option

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")


def read_pixels(
    request: Request, fps: int, frames: int, size: tuple[int, int]
) -> tuple[dict[str, Any], int, list[str]]:
    """The pixel arguments of a pipeline's call.

    Args:
        request: tells the files.
        fps: of the model; videos are resampled to it.
        frames: how many the model makes unless `request` says otherwise; a longer video is cut, a shorter one is used
            as it is.
        size: height and width of the model's frames.

    Returns:
        image, last_image, video, mask; how many frames to make; and notes for the user.

    Raises:
        ValueError: on a file that cannot be used, with the cure.
    """
    pixels: dict[str, Any] = {
        name: read_picture(name, Path(path))
        for name in ("image", "last_image")
        if (path := getattr(request, name)) is not None
    }
    frames, notes = request.frames or frames, []
    if request.video is not None:
        video, more = read_frames("video", Path(request.video), fps, frames)
        if request.frames is not None and len(video) < frames:
            raise ValueError(
                f"--video {request.video}: {counted(len(video))} at the model's {fps} a second, and --frames is "
                f"{frames}; use at most {len(video)}, or leave --frames out"
            )
        if more:
            notes.append(
                f"{request.video} is cut to the first {counted(frames)} at {fps} a second; see --frames"
            )
        pixels["video"], frames = video, len(video)
    for name, value in pixels.items():
        width, height = value.size if isinstance(value, Image.Image) else value.shape[2:0:-1]
        if (inner := _middle((height, width), size)) != (height, width):
            where = f"{getattr(request, name)} ({width} x {height})"
            notes.append(f"of {where} the middle {inner[1]} x {inner[0]} is used")
    if request.mask is not None:
        subject = (
            pixels["video"] if request.video is not None else np.asarray(pixels["image"])[None]
        )
        pixels["mask"] = _read_mask(request, fps, subject.shape[:3])
    return pixels, frames, notes


def read_picture(name: str, path: Path) -> Image.Image:
    """An RGB picture, upright.

    Raises:
        ValueError: on one that cannot be read, is animated, is transparent, or has more than 8 bits a channel.
    """
    picture = _open(name, path)
    where = f"{option(name)} {path}"
    if not _is_still(picture):
        raise ValueError(
            f"{where}: an animated picture; give one frame of it as a picture, or an mp4 with --video"
        )
    if picture.mode in DEEP_MODES:
        raise ValueError(
            f"{where}: more than 8 bits a pixel ({picture.mode}); save it as an 8-bit PNG or a JPEG"
        )
    _refuse_alpha(where, picture)
    return _upright(picture).convert("RGB")


def read_frames(name: str, path: Path, fps: int, most: int) -> tuple[np.ndarray, bool]:
    """At most `most` frames, uint8 (t, h, w, 3) at `fps`, and whether the video goes on.

    Raises:
        ValueError: on a file that is no video, or has no frames.
    """
    if _is_still_picture(path):
        raise ValueError(f"{option(name)} {path}: a still picture; give it with --image")
    try:
        # Half a frame more than `most`, in the middle between two ticks: there is nothing to round there.
        frames = read_video(path, fps, end=(most + 0.5) / fps)
    except VideoError as error:
        cure = "give a video with pictures in it, such as an mp4"
        if path.suffix.lower() == ".webp":
            cure = "animated WebP is written, but not read; convert it to mp4"
        raise ValueError(f"{option(name)} {path}: {error}; {cure}") from None
    return frames[:most], len(frames) > most


def _read_mask(request: Request, fps: int, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 (h, w) or (t, h, w), 255 = generate. `shape`: (t, h, w) of what it belongs to."""
    assert request.mask is not None
    num_frames, height, width = shape
    if request.box is not None:
        x0, y0, x1, y1 = request.box
        box = np.zeros((height, width), np.uint8)
        box[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = 255
        if not box.any():
            raise ValueError(
                f"--mask {request.mask}: no pixel of {width} x {height} lies in it; make the box larger"
            )
        return box
    path = Path(request.mask)
    if _is_still_picture(path):
        picture = _upright(_open("mask", path))
        _refuse_alpha(f"--mask {path}", picture)
        mask = np.asarray(picture.convert("L" if picture.mode not in DEEP_MODES else "F"))
        mask = np.where(
            mask > (mask.max() if picture.mode in DEEP_MODES else 255) / 2, 255, 0
        ).astype(np.uint8)
    else:
        frames, _ = read_frames("mask", path, fps, num_frames)
        if request.video is None:
            raise ValueError(
                f"--mask {path}: it moves, and a cinemagraph takes a still mask; give a picture of it"
            )
        mask = np.where(frames.mean(axis=-1) > 127.5, 255, 0).astype(np.uint8)
    subject = option("video" if request.video else "image")
    if mask.shape[-2:] != (height, width):
        raise ValueError(
            f"--mask {path}: {mask.shape[-1]} x {mask.shape[-2]} pixels, but {subject} has {width} x {height}; "
            "make them the same size"
        )
    if mask.ndim == 3 and len(mask) != num_frames:
        raise ValueError(
            f"--mask {path}: {counted(len(mask))}, but {subject} has {num_frames}; give a still mask, or one per frame"
        )
    if not mask.any():
        raise ValueError(f"--mask {path}: no region; paint white where to generate")
    return mask


def _middle(size: tuple[int, int], model: tuple[int, int]) -> tuple[int, int]:
    """Height and width of what `lumiere.pipelines.inputs.fit` leaves of a frame."""
    share = min(size[0] / model[0], size[1] / model[1])
    return min(size[0], round(model[0] * share)), min(size[1], round(model[1] * share))


def _open(name: str, path: Path) -> Image.Image:
    """A loaded picture; a truncated one shows here."""
    try:
        picture = Image.open(path)
        picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        unidentified = isinstance(error, Image.UnidentifiedImageError)
        if unidentified and name != "mask" and path.suffix.lower() in VIDEOS:
            raise ValueError(f"{option(name)} {path}: a video; give it with --video") from None
        reason = "not a picture" if unidentified else f"cannot be read ({error})"
        raise ValueError(f"{option(name)} {path}: {reason}; give a whole PNG or JPEG") from None
    return picture


def _is_still_picture(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            return _is_still(picture)
    except (OSError, ValueError, Image.DecompressionBombError):
        return False


def _is_still(picture: Image.Image) -> bool:
    """Cameras' JPEGs may hold a preview, or the other eye's view, after the picture itself (MPO)."""
    return picture.format == "MPO" or getattr(picture, "n_frames", 1) == 1


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as EXIF says; a note of the camera that cannot be read says nothing."""
    try:
        return ImageOps.exif_transpose(picture)
    except (OSError, ValueError, SyntaxError, struct.error):
        return picture


def _refuse_alpha(where: str, picture: Image.Image) -> None:
    if not picture.has_transparency_data:
        return
    if picture.mode in DEEP_MODES or np.asarray(picture.convert("RGBA"))[..., 3].min() < 255:
        raise ValueError(
            f"{where}: has transparency; put it on a background and save it without, for example "
            "`magick in.png -background white -flatten out.png`"
        )

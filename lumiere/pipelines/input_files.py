"""Reads the pixels of a request: pictures, videos and masks from files, and training clips.

Files are read strictly, because a wrong guess would show in the video.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lumiere.data.clips import ClipStore
from lumiere.data.pictures import DEEP_MODES, as_shown, cannot_be_shown, is_still, upright
from lumiere.data.video_io import read_video
from lumiere.errors import DamagedVideoError, DataError, VideoError
from lumiere.files import content_hash
from lumiere.modes import subject
from lumiere.pipelines.inputs import cropped_size, fit_region
from lumiere.plurals import counted
from lumiere.requests import Box, Request

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")


class Clips:
    """The training clips of both splits, by their ids.

    Args:
        folder: the output of the decode stage.

    Raises:
        FileNotFoundError: if the folder holds no finished clips.
        ValueError: if a part of it is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.stores = [ClipStore(folder), ClipStore(folder, "validation")]
        self.fps = self.stores[0].fps
        self._places = {
            entry["clip_id"]: (store, index)
            for store in reversed(self.stores)
            for index, entry in reversed(list(enumerate(store.entries)))
        }

    def frames(self, clip_id: str) -> np.ndarray:
        """Return the frames of a clip, uint8 (t, h, w, 3).

        Raises:
            ValueError: if there is no such clip.
        """
        if clip_id not in self._places:
            examples = ", ".join(entry["clip_id"] for entry in self.stores[0].entries[:3])
            raise ValueError(
                f"clip {clip_id!r} is not among the decoded clips; there are {examples}, ..."
            )
        store, index = self._places[clip_id]
        return store.frames(index)


def open_clips(folder: Path, clip_id: str) -> Clips:
    """Open the training clips for a request that names one of them.

    Raises:
        ValueError: if the folder has no clips that can be used.
    """
    try:
        return Clips(folder)
    except (OSError, ValueError) as error:
        reason = error.problem if isinstance(error, DataError) else error  # its cure is another
        raise ValueError(
            f"clip {clip_id} is not available, because {folder} holds no decoded clips ({reason}); "
            "run this in a project where `dvc repro decode` has made them, or name a file instead"
        ) from None


@dataclass(frozen=True)
class Pixels:
    """The pixels that a request starts from, as arguments of the pipeline.

    Attributes:
        arguments: `image`, `last_image`, `video` and `mask` of a pipeline's call, those that the mode takes.
        num_frames: how many frames to make.
        notes: sentences that tell the user what is cut away, not read, or without effect.
    """

    arguments: dict[str, Any]
    num_frames: int
    notes: list[str]


def read_pixels(
    request: Request,
    fps: int,
    num_frames: int,
    size: tuple[int, int],
    clips: Clips | None = None,
) -> Pixels:
    """Read the pixels of a request.

    Args:
        request: names the files, or the clip.
        fps: frames per second of the model. Videos are resampled to it.
        num_frames: how many frames the model makes if `request` does not say. A longer video is cut, a shorter one
            gives a shorter video.
        size: height and width of the model's frames.
        clips: the training clips, if the request names one.

    Raises:
        ValueError: if a file or a clip cannot be used; the message says how to fix it.
    """
    limit = request.frames or num_frames
    arguments: dict[str, Any] = {}
    notes: list[str] = []
    for name in ("image", "last_image"):
        if (path := getattr(request, name)) is not None:
            arguments[name] = read_picture(name, Path(path))
    if subject(request.mode) == "video":
        arguments["video"], goes_on = _read_subject_video(request, fps, limit, clips)
        limit = len(arguments["video"])
        if goes_on:
            notes.append(
                f"{_source(request, 'video')} is cut to the first {counted(limit, 'frame')} at {fps} a "
                "second; see --frames"
            )
    elif request.clip is not None:
        arguments["image"] = Image.fromarray(_clip_frames(request.clip, fps, clips)[0])
    for name, value in arguments.items():
        width, height = value.size if isinstance(value, Image.Image) else value.shape[2:0:-1]
        inner = cropped_size((height, width), size)
        if inner != (height, width):
            where = f"{_source(request, name)} ({width} x {height})"
            notes.append(f"of {where} the middle {inner[1]} x {inner[0]} is used")
    if request.mask is not None:
        masked = arguments.get("video")
        if masked is None:
            masked = np.asarray(arguments["image"])[None]
        arguments["mask"] = _read_mask(request, fps, masked.shape[:3])
        _check_region_left(request, arguments["mask"], size)
    if {"image", "last_image"} <= arguments.keys() and limit < 2:
        raise ValueError("frames is 1, but image and last_image are two; use at least 2 frames")
    return Pixels(arguments, limit, notes)


def hash_inputs(request: Request, clips: Clips | None = None) -> dict[str, str]:
    """Compute the SHA-256 of each input file, and of the clip's pixels, by field of the request."""
    hashes = {name: content_hash(path) for name, path in request.input_files().items()}
    if request.clip is not None and clips is not None:
        frames = np.ascontiguousarray(clips.frames(request.clip))
        hashes["clip"] = hashlib.sha256(frames.tobytes()).hexdigest()
    return hashes


def read_picture(name: str, path: Path) -> Image.Image:
    """Read an RGB picture as it is shown.

    Raises:
        ValueError: if it cannot be read, is animated, is transparent, or has more than 8 bits per
            channel.
    """
    picture = _open(name, path)
    where = f"{name} {path}"
    if problem := cannot_be_shown(picture):
        cure = "" if is_still(picture) else ", or an mp4 as video"
        raise ValueError(f"{where}: {problem}{cure}")
    _refuse_alpha(where, picture)
    return as_shown(picture).convert("RGB")


def read_frames(name: str, path: Path, fps: int, most: int) -> tuple[np.ndarray, bool]:
    """Read at most `most` frames, uint8 (t, h, w, 3) at `fps`; also return whether the video
    continues.

    Raises:
        ValueError: if the file is not a video, or has no frames.
    """
    if _is_still_picture(path):
        raise ValueError(f"{name} {path}: a still picture; give it as image")
    try:
        # Half a frame more than `most`: the end lies in the middle between two ticks, so that
        # rounding cannot matter.
        frames = read_video(path, fps, end=(most + 0.5) / fps)
    except DamagedVideoError as error:
        raise ValueError(f"{name} {path}: {error}") from None
    except VideoError as error:
        cure = "give a video with pictures in it, such as an mp4"
        if path.suffix.lower() == ".webp":
            cure = "animated WebP is written, but not read; convert it to mp4"
        raise ValueError(f"{name} {path}: {error}; {cure}") from None
    return frames[:most], len(frames) > most


def _read_subject_video(
    request: Request, fps: int, limit: int, clips: Clips | None
) -> tuple[np.ndarray, bool]:
    """Read at most `limit` frames of the video or clip to work on; also return whether it
    continues.
    """
    if request.clip is not None:
        frames = _clip_frames(request.clip, fps, clips)
        frames, goes_on = frames[:limit], len(frames) > limit
    else:
        assert request.video is not None
        frames, goes_on = read_frames("video", Path(request.video), fps, limit)
    if request.frames is not None and len(frames) < limit:
        raise ValueError(
            f"{_source(request, 'video')}: {counted(len(frames), 'frame')} at the model's {fps} a second, "
            f"and frames is {limit}; use at most {len(frames)}, or leave frames out"
        )
    return frames, goes_on


def _clip_frames(clip_id: str, fps: int, clips: Clips | None) -> np.ndarray:
    assert clips is not None, "the caller opens the clips that a request needs"
    if clips.fps != fps:
        raise ValueError(
            f"clip {clip_id}: the clips have {clips.fps} frames a second, the model makes {fps}; "
            "name a video file, which is resampled"
        )
    return clips.frames(clip_id)


def _source(request: Request, name: str) -> str:
    """Name the file or clip of an argument, for messages."""
    path = getattr(request, name)
    return f"clip {request.clip}" if path is None else str(path)


def _read_mask(request: Request, fps: int, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 (h, w) or (t, h, w), 255 = generate. `shape`: (t, h, w) of the masked pixels."""
    num_frames, height, width = shape
    if isinstance(request.mask, Box):
        return request.mask.paint(height, width)
    assert request.mask is not None
    path = Path(request.mask)
    if _is_still_picture(path):
        mask = _read_still_mask(path)
    else:
        frames, _ = read_frames("mask", path, fps, num_frames)
        if subject(request.mode) == "image":
            raise ValueError(
                f"mask {path}: it moves, and a cinemagraph takes a still mask; give a picture"
            )
        mask = np.where(frames.mean(axis=-1) > 127.5, 255, 0).astype(np.uint8)
    masked = subject(request.mode)
    if mask.shape[-2:] != (height, width):
        raise ValueError(
            f"mask {path}: {mask.shape[-1]} x {mask.shape[-2]} pixels, but the {masked} has "
            f"{width} x {height}; make them the same size"
        )
    if mask.ndim == 3 and len(mask) != num_frames:
        raise ValueError(
            f"mask {path}: {counted(len(mask), 'frame')}, but the {masked} has {num_frames}; give a "
            "still mask, or one per frame"
        )
    if not mask.any():
        raise ValueError(f"mask {path}: no region; paint white where to generate")
    return mask


def _check_region_left(request: Request, mask: np.ndarray, size: tuple[int, int]) -> None:
    """Raise ValueError if the part of the pixels that is used holds nothing of the mask."""
    region = torch.from_numpy(mask > 0).float()
    frames = region.view(1, 1, -1, *region.shape[-2:])
    try:
        fit_region(frames, size, size)
    except ValueError:
        raise ValueError(
            f"mask {request.mask}: none of it lies in the middle that is used; mark where to "
            "generate nearer to the middle"
        ) from None


def _read_still_mask(path: Path) -> np.ndarray:
    """Read a still mask, uint8 (h, w): 255 where the picture is brighter than half of its range."""
    picture = upright(_open("mask", path))
    _refuse_alpha(f"mask {path}", picture)
    if picture.mode in DEEP_MODES:
        values = np.asarray(picture.convert("F"))
        half = values.max() / 2
    else:
        values = np.asarray(picture.convert("L"))
        half = 255 / 2
    return np.where(values > half, 255, 0).astype(np.uint8)


def _open(name: str, path: Path) -> Image.Image:
    """Open a picture and load it, so that a truncated file is noticed here."""
    try:
        picture = Image.open(path)
        picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        unidentified = isinstance(error, Image.UnidentifiedImageError)
        if unidentified and name != "mask" and path.suffix.lower() in VIDEOS:
            raise ValueError(f"{name} {path}: a video; give it as video") from None
        reason = "not a picture" if unidentified else f"cannot be read ({error})"
        raise ValueError(f"{name} {path}: {reason}; give a whole PNG or JPEG") from None
    return picture


def _is_still_picture(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            return is_still(picture)
    except (OSError, ValueError, Image.DecompressionBombError):
        return False


def _refuse_alpha(where: str, picture: Image.Image) -> None:
    if not picture.has_transparency_data:
        return
    if picture.mode in DEEP_MODES or np.asarray(picture.convert("RGBA"))[..., 3].min() < 255:
        raise ValueError(
            f"{where}: has transparency; put it on a background and save it without, for example "
            "`magick in.png -background white -flatten out.png`"
        )

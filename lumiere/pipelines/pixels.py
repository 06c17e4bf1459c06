"""Pictures, videos and masks of any kind (tensors, arrays, PIL images, lists) as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lumiere.data.pictures import DEEP_MODES
from lumiere.data.pixel_values import bytes_to_unit, to_unit_range
from lumiere.plurals import counted


def read_image(image: Any, name: str = "image") -> Tensor:
    """Read pictures as (b, 3, h, w) in [-1, 1].

    Args:
        image: a tensor (b, 3, h, w) or (3, h, w) in [0, 1], an array (h, w, 3) or (b, h, w, 3), a
            PIL image, or a list of any of these.
        name: the argument's name in messages.

    Raises:
        ValueError: on anything else; the message says how to fix it.
    """
    if isinstance(image, (list, tuple)) and image:
        return _same_size([read_image(entry, name) for entry in image], name).flatten(0, 1)
    values = _tensor(image, name, channels_last_at=(3, 4))
    if values.ndim == 3:
        values = values.unsqueeze(0)
    if values.ndim != 4 or values.shape[1] != 3 or 0 in values.shape:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; "
            "expected a tensor (b, 3, h, w) or an RGB picture"
        )
    return values * 2 - 1


def read_video(video: Any) -> Tensor:
    """Read videos as (b, 3, t, h, w) in [-1, 1].

    Args:
        video: a tensor (b, t, 3, h, w) or (t, 3, h, w) in [0, 1], an array (t, h, w, 3) or
            (b, t, h, w, 3), a list of frames (tensors (3, h, w), arrays (h, w, 3) or PIL images),
            or a list of videos.

    Raises:
        ValueError: on anything else; the message says how to fix it.
    """
    if isinstance(video, (list, tuple)):
        if not video:
            raise ValueError("video has no frames; pass at least one")
        if not all(_is_frame(entry) for entry in video):
            return _read_videos(video)
        frames = [_tensor(frame, "video", channels_last_at=(3,)) for frame in video]
        video = _same_size(frames, "video")
    values = _tensor(video, "video", channels_last_at=(4, 5))
    if values.ndim == 4:
        values = values.unsqueeze(0)
    if values.ndim == 5 and values.shape[1] == 0:
        raise ValueError("video has no frames; pass at least one")
    if values.ndim != 5 or values.shape[2] != 3 or 0 in values.shape:
        raise ValueError(
            f"video has shape {tuple(values.shape)}; expected (b, t, 3, h, w) or (t, 3, h, w)"
        )
    return values.transpose(1, 2) * 2 - 1


def _is_frame(entry: Any) -> bool:
    return isinstance(entry, Image.Image) or getattr(entry, "ndim", None) == 3


def _read_videos(videos: Any) -> Tensor:
    """Read a list of videos as (b, 3, t, h, w)."""
    clips = [read_video(clip) for clip in videos]
    if len({clip.shape for clip in clips}) > 1:
        raise ValueError(
            "video: the clips of the list differ in size or length; make them alike, or pass one"
        )
    return torch.cat(clips)


def read_mask(mask: Any, masked: Tensor, name: str) -> Tensor:
    """Read a mask as (b, 1, t, h, w) of 0 and 1; t = 1 for a still mask.

    It may be (h, w), (t, h, w), (b, t, h, w) or (b, t, 1, h, w). A list holds one mask (h, w) per
    frame. If there are as many masks (h, w) as pictures, each picture gets one.

    Args:
        mask: tensor or array (boolean, uint8, or float in [0, 1]), a PIL image, or a list of these;
            values above one half mark where to generate.
        masked: the picture (b, 3, h, w) or video (b, 3, t, h, w) that it belongs to.
        name: the name of that picture or video in messages.

    Raises:
        ValueError: if the size or the number of frames or pictures differs, or the mask has no
            region.
    """
    is_video = masked.ndim == 5
    values = _read_mask_values(mask)
    if not is_video and values.ndim == 3 and len(values) == len(masked):
        values = values.unsqueeze(1)  # one for each picture
    values = values.view(*(1,) * (4 - values.ndim), *values.shape)  # (b, t, h, w)
    if values.shape[-2:] != masked.shape[-2:]:
        raise ValueError(
            f"mask is {values.shape[-1]} x {values.shape[-2]} pixels, "
            f"{name} {masked.shape[-1]} x {masked.shape[-2]}; make them the same size"
        )
    num_frames = masked.shape[2] if is_video else 1
    if values.shape[1] not in (1, num_frames):
        alternatives = "or one per picture"
        if is_video:
            alternatives = "one per frame, or one per video as (b, 1, h, w)"
        raise ValueError(
            f"mask has {counted(values.shape[1], 'frame')}, {name} {num_frames}; "
            f"pass one still mask, {alternatives}"
        )
    region = (values > 0.5).float()
    if not bool(region.flatten(1).any(dim=1).all()):
        raise ValueError("mask has no region; mark 1 (white) where to generate")
    return region.unsqueeze(1)


def _read_mask_values(mask: Any) -> Tensor:
    """Read the values of a mask: (h, w), (t, h, w) or (b, t, h, w), float32 in [0, 1]."""
    if not isinstance(mask, (list, tuple)):
        values = _mask_values(mask)
    elif mask:
        values = _same_size([_mask_values(entry) for entry in mask], "mask")
    else:
        values = torch.zeros(0)
    has_channel = values.ndim == 5 and values.shape[2] == 1
    if not (2 <= values.ndim <= 4 or has_channel):
        raise ValueError(
            f"mask has shape {tuple(values.shape)}; "
            "expected (h, w), (t, h, w), (b, t, h, w) or (b, t, 1, h, w)"
        )
    return values.squeeze(2) if has_channel else values


def _mask_values(mask: Any) -> Tensor:
    """Convert a mask of any shape to float32 in [0, 1]; bytes may be 0 and 1 or 0 and 255."""
    if isinstance(mask, Image.Image):
        _check_picture(mask, "mask")
        mask = np.asarray(mask.convert("L"))
    values = _tensor(mask, "mask")
    is_bytes = getattr(mask, "dtype", None) in (np.uint8, torch.uint8)
    if is_bytes and values.numel() and values.max() <= 1 / 255:
        return values * 255
    return values


def _same_size(pictures: list[Tensor], name: str) -> Tensor:
    """Stack pictures of the same size along a new first axis."""
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(f"{name}: pictures of different sizes; make them the same size")
    return torch.stack(pictures)


def _check_picture(picture: Image.Image, name: str) -> None:
    """Raise ValueError on several frames, transparency, or more than 8 bits a channel."""
    if getattr(picture, "n_frames", 1) > 1:
        raise ValueError(
            f"{name} is an animated picture; pass its first frame (picture.seek(0); "
            "picture.copy()), or a video"
        )
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        raise ValueError(
            f"{name} has transparency; paste it on a background and convert it to RGB first"
        )
    if picture.mode in DEEP_MODES:
        raise ValueError(
            f"{name} has more than 8 bits a pixel ({picture.mode}); scale it to 0-255 and convert "
            "it to L or RGB first"
        )


def _from_pil(picture: Image.Image, name: str) -> Tensor:
    """Convert a PIL image to (3, h, w) in [0, 1]."""
    _check_picture(picture, name)
    return to_unit_range(np.asarray(picture.convert("RGB"))[None])[0]


def _tensor(value: Any, name: str, channels_last_at: tuple[int, ...] = ()) -> Tensor:
    """Convert to float32 in [0, 1]; arrays with `channels_last_at` axes get their channels moved
    before the height.
    """
    if isinstance(value, Image.Image):
        return _from_pil(value, name)
    if isinstance(value, np.ndarray):
        tensor = torch.from_numpy(np.array(value))  # a copy: the source may be read-only
        if tensor.ndim in channels_last_at:
            tensor = tensor.movedim(-1, -3)
    elif isinstance(value, Tensor):
        tensor = value.detach()
    else:
        raise ValueError(
            f"{name} is a {type(value).__name__}; expected a tensor, a NumPy array or a PIL image"
        )
    if tensor.dtype == torch.uint8:
        return bytes_to_unit(tensor)
    tensor = tensor.float()
    if tensor.numel() and not (tensor.min() >= 0 and tensor.max() <= 1):
        low, high = float(tensor.min()), float(tensor.max())
        raise ValueError(
            f"{name} has values from {low:g} to {high:g}; expected uint8, or numbers in [0, 1]"
        )
    return tensor

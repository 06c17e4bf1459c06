"""Pictures, videos and masks of any kind (tensors, arrays, PIL images, lists of them) as tensors of one kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lumiere.data.pixel_values import bytes_to_unit, to_unit_range

DEEP_MODES = (
    "I",
    "F",
    "I;16",
    "I;16B",
    "I;16L",
    "I;16N",
)  # PIL's own conversion to 8 bits cuts off all above 255


def read_image(image: Any, name: str = "image") -> Tensor:
    """(b, 3, h, w) in [-1, 1] from a tensor (b, 3, h, w) or (3, h, w) in [0, 1], an array (h, w, 3) or (b, h, w, 3), a
    PIL image, or a list of any of these.

    Raises:
        ValueError: on anything else, with the cure.
    """
    if isinstance(image, (list, tuple)) and image:
        return _same_size([read_image(entry, name) for entry in image], name).flatten(0, 1)
    values = _tensor(image, name, channels_last_at=(3, 4))
    if values.ndim == 3:
        values = values.unsqueeze(0)
    if values.ndim != 4 or values.shape[1] != 3 or 0 in values.shape:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; expected a tensor (b, 3, h, w) or an RGB picture"
        )
    return values * 2 - 1


def read_video(video: Any) -> Tensor:
    """(b, 3, t, h, w) in [-1, 1] from a tensor (b, t, 3, h, w) or (t, 3, h, w) in [0, 1], an array (t, h, w, 3) or
    (b, t, h, w, 3), a list of frames (tensors (3, h, w), arrays (h, w, 3) or PIL images), or a list of videos.

    Raises:
        ValueError: on anything else, with the cure.
    """
    if isinstance(video, (list, tuple)):
        if not video:
            raise ValueError("video has no frames; pass at least one")
        if all(
            isinstance(entry, Image.Image) or getattr(entry, "ndim", None) == 3 for entry in video
        ):
            video = _same_size(
                [_tensor(frame, "video", channels_last_at=(3,)) for frame in video], "video"
            )
        else:
            clips = [read_video(clip) for clip in video]
            if len({clip.shape for clip in clips}) > 1:
                raise ValueError(
                    "video: the clips of the list differ in size or length; make them alike, or pass one"
                )
            return torch.cat(clips)
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


def read_mask(mask: Any, like: Tensor, name: str) -> Tensor:
    """(b, 1, t, h, w) of 0 and 1 from (h, w), (t, h, w), (b, t, h, w) or (b, t, 1, h, w); t = 1 is a still mask.

    A list holds one mask (h, w) per frame. As many masks (h, w) as there are pictures are one each.

    Args:
        mask: tensor or array (boolean, uint8, or float in [0, 1]), a PIL image, or a list of such; above one half =
            generate.
        like: the picture (b, 3, h, w) or video (b, 3, t, h, w) that it belongs to.
        name: what that is called.

    Raises:
        ValueError: on another size, another number of frames or pictures, or no region.
    """
    if isinstance(mask, (list, tuple)):
        values = (
            _same_size([_mask_values(entry) for entry in mask], "mask") if mask else torch.zeros(0)
        )
    else:
        values = _mask_values(mask)
    if not 2 <= values.ndim <= 5 or (values.ndim == 5 and values.shape[2] != 1):
        raise ValueError(
            f"mask has shape {tuple(values.shape)}; expected (h, w), (t, h, w), (b, t, h, w) or (b, t, 1, h, w)"
        )
    values = values.squeeze(2) if values.ndim == 5 else values
    if like.ndim == 4 and values.ndim == 3 and len(values) == len(like):
        values = values.unsqueeze(1)
    values = values.view(*(1,) * (4 - values.ndim), *values.shape)  # (b, t, h, w)
    if values.shape[-2:] != like.shape[-2:]:
        raise ValueError(
            f"mask is {values.shape[-1]} x {values.shape[-2]} pixels, {name} {like.shape[-1]} x {like.shape[-2]}; "
            "make them the same size"
        )
    num_frames = like.shape[2] if like.ndim == 5 else 1
    if values.shape[1] not in (1, num_frames):
        kinds = (
            "one per frame, or one per video as (b, 1, h, w)"
            if like.ndim == 5
            else "or one per picture"
        )
        raise ValueError(
            f"mask has {values.shape[1]} frames, {name} {num_frames}; pass one still mask, {kinds}"
        )
    region = (values > 0.5).float()
    if not bool(region.flatten(1).any(dim=1).all()):
        raise ValueError("mask has no region; mark 1 (white) where to generate")
    return region.unsqueeze(1)


def _mask_values(mask: Any) -> Tensor:
    """Float32 in [0, 1], of any shape; bytes may be 0 and 1 or 0 and 255."""
    if isinstance(mask, Image.Image):
        _check_picture(mask, "mask")
        mask = np.asarray(mask.convert("L"))
    values = _tensor(mask, "mask")
    if (
        values.numel()
        and getattr(mask, "dtype", None) in (np.uint8, torch.uint8)
        and values.max() <= 1 / 255
    ):
        values = values * 255
    return values


def _same_size(pictures: list[Tensor], name: str) -> Tensor:
    """The pictures as one tensor, along a new first axis."""
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(f"{name}: pictures of different sizes; make them the same size")
    return torch.stack(pictures)


def _check_picture(picture: Image.Image, name: str) -> None:
    """Raises ValueError on a picture of several frames, with transparency, or of more than 8 bits a channel."""
    if getattr(picture, "n_frames", 1) > 1:
        raise ValueError(
            f"{name} is an animated picture; pass its first frame (picture.seek(0); picture.copy()), or a video"
        )
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        raise ValueError(
            f"{name} has transparency; paste it on a background and convert it to RGB first"
        )
    if picture.mode in DEEP_MODES:
        raise ValueError(
            f"{name} has more than 8 bits a pixel ({picture.mode}); scale it to 0-255 and convert it to L or RGB first"
        )


def _from_pil(picture: Image.Image, name: str) -> Tensor:
    """(3, h, w) in [0, 1]."""
    _check_picture(picture, name)
    return to_unit_range(np.asarray(picture.convert("RGB"))[None])[0]


def _tensor(value: Any, name: str, channels_last_at: tuple[int, ...] = ()) -> Tensor:
    """Float32 in [0, 1]; arrays of `channels_last_at` axes get their channels moved to the front of height."""
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

"""The conditioning video C and the mask M of every mode (paper, section 4).

The network's input is <J, C, M> on the channel axis. M is 1 where the video is known; C is the
clean video times M. One network handles every mode; with text alone, nothing is known.

Each function returns (conditioning (b, 3, t, h, w), known_mask (b, 1, t, h, w)), M as 0/1 in C's
dtype, and does not change its arguments. Videos are in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def text_only(video_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return C and M, float32, of a video in which nothing is known.

    Args:
        video_shape: (b, c, t, h, w).
    """
    if len(video_shape) != 5:
        raise ValueError(f"video_shape {tuple(video_shape)}; expected (b, c, t, h, w)")
    batch_size, _, num_frames, height, width = video_shape
    conditioning = torch.zeros(*video_shape, dtype=torch.float32)
    known_mask = torch.zeros(batch_size, 1, num_frames, height, width, dtype=torch.float32)
    return conditioning, known_mask


def image_to_video(
    image: Tensor | None, num_frames: int, last_image: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return C and M of a video whose first frame, last frame, or both are known.

    Args:
        image: the first frame (b, 3, h, w); None if only the last is known.
        num_frames: t; at least 2 if both are known.
        last_image: the last frame (b, 3, h, w); None if only the first is known.

    Raises:
        ValueError: if there is no picture, the pictures differ in shape or dtype, or there are too
            few frames.
    """
    pictures = [picture for picture in (image, last_image) if picture is not None]
    if not pictures:
        raise ValueError(
            "image and last_image are both None; pass the first frame, the last, or both"
        )
    if num_frames < len(pictures):
        reason = " for a first and a last one" if len(pictures) == 2 else ""
        raise ValueError(f"num_frames {num_frames}; allowed: at least {len(pictures)}{reason}")
    if image is not None:
        _require(image, 4, "image", "(b, 3, h, w)")
    if last_image is not None:
        _require(last_image, 4, "last_image", "(b, 3, h, w)")
    first, last = pictures[0], pictures[-1]
    if (last.shape, last.dtype) != (first.shape, first.dtype):
        raise ValueError(
            f"last_image has shape {tuple(last.shape)} and dtype {last.dtype}; "
            f"expected the image's, {tuple(first.shape)} and {first.dtype}"
        )
    batch_size, channels, height, width = first.shape
    conditioning = first.new_zeros(batch_size, channels, num_frames, height, width)
    known_mask = first.new_zeros(batch_size, 1, num_frames, height, width)
    for frame, picture in ((0, image), (num_frames - 1, last_image)):
        if picture is not None:
            conditioning[:, :, frame] = picture
            known_mask[:, :, frame] = 1
    return conditioning, known_mask


def inpainting(video: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """Return C and M of a video in which everything outside a region is known.

    Args:
        video: (b, 3, t, h, w).
        region: (b, 1, t, h, w), or (b, 1, h, w) for a still region; 1 = generate.
    """
    _require(video, 5, "video", "(b, 3, t, h, w)")
    if region.ndim == 4:
        region = region.unsqueeze(2).expand(-1, -1, video.shape[2], -1, -1)
    _require_region(region, (video.shape[0], 1, *video.shape[2:]))
    known_mask = 1 - region.to(video.dtype)
    return video * known_mask, known_mask


def outpainting(video: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return C and M of a larger frame with the known video in its middle.

    Args:
        video: (b, 3, t, h, w).
        height, width: the size of the frame, at least that of the video.
    """
    _require(video, 5, "video", "(b, 3, t, h, w)")
    over_height, over_width = height - video.shape[-2], width - video.shape[-1]
    if over_height < 0 or over_width < 0:
        raise ValueError(
            f"height, width {height}, {width}; "
            f"expected at least the video's {tuple(video.shape[-2:])}"
        )
    top, left = over_height // 2, over_width // 2
    padding = (left, over_width - left, top, over_height - top)
    known_mask = F.pad(video.new_ones(video.shape[0], 1, *video.shape[2:]), padding)
    return F.pad(video, padding), known_mask


def cinemagraph(image: Tensor, region: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
    """Return C and M of a still picture in which a region moves.

    Frame 0 is fully known; later frames are known outside the region.

    Args:
        image: (b, 3, h, w).
        region: (b, 1, h, w), 1 = generate.
        num_frames: t, at least 1.
    """
    _require(image, 4, "image", "(b, 3, h, w)")
    _require_region(region, (image.shape[0], 1, *image.shape[2:]))
    if num_frames < 1:
        raise ValueError(f"num_frames {num_frames}; allowed: at least 1")
    known_mask = (1 - region.to(image.dtype)).unsqueeze(2).repeat(1, 1, num_frames, 1, 1)
    known_mask[:, :, 0] = 1
    return image.unsqueeze(2) * known_mask, known_mask


def _require(tensor: Tensor, ndim: int, name: str, shape: str) -> None:
    if tensor.ndim != ndim or not tensor.is_floating_point():
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)} and dtype {tensor.dtype}; "
            f"expected {shape}, float"
        )


def _require_region(region: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(region.shape) != shape:
        raise ValueError(f"region has shape {tuple(region.shape)}; expected {shape}")
    if not bool(((region == 0) | (region == 1)).all()):
        raise ValueError("region has values other than 0 and 1; expected 1 = generate, 0 = keep")

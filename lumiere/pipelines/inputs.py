"""What users hand in (tensors, arrays, pictures) as model tensors, and the mode that it means.

Pictures and videos are centre-cropped to the model's aspect ratio, then resized: a circle stays a circle. A mask is 1
where to generate, and goes the same way as the picture or video that it belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lumiere import conditioning
from lumiere.data.clips import resize_video

# What each mode is made from; a mask belongs to the first.
MODES: dict[str, tuple[str, ...]] = {
    "text_to_video": (),
    "image_to_video": ("image",),
    "inpainting": ("video", "mask"),
    "outpainting": ("video",),
    "cinemagraph": ("image", "mask"),
    "video_to_video": ("video",),
}
CONDITIONED_MODES = ("image_to_video", "inpainting", "outpainting", "cinemagraph")


def infer_mode(mode: str | None, image: Any, video: Any, mask: Any, last_image: Any = None) -> str:
    """The mode that was named, or the one that the inputs mean.

    Raises:
        ValueError: on an unknown mode, or inputs that do not make one.
    """
    inputs = {"image": image, "last_image": last_image, "video": video, "mask": mask}
    given = [name for name, value in inputs.items() if value is not None]
    if mode is None:
        for name in MODES:
            if _takes(name, given) and name != "outpainting":
                return name
        meanings = ", ".join(f"{' + '.join(parts) or 'prompt only'}: {name}" for name, parts in MODES.items())
        raise ValueError(
            f"{' and '.join(given)} together make no mode; allowed: {meanings}; "
            "in image_to_video last_image beside the image, or in its place"
        )
    if mode not in tuple(MODES):  # which may be of a type that has no hash
        raise ValueError(f"mode is {mode!r}; allowed: {', '.join(MODES)}")
    if not _takes(mode, given):
        takes = "image, last_image or both" if mode == "image_to_video" else " and ".join(MODES[mode])
        raise ValueError(
            f"mode {mode!r} takes {takes or 'the prompt alone'}; given: {' and '.join(given) or 'the prompt alone'}"
        )
    return mode


def _takes(mode: str, given: Sequence[str]) -> bool:
    """Whether these inputs make the mode; the last frame serves as well as the first, or beside it."""
    if mode == "image_to_video":
        return bool(given) and set(given) <= {"image", "last_image"}
    return set(MODES[mode]) == set(given)


@dataclass(frozen=True)
class Given:
    """The user's pixels at their own size, one row per generated video; None where there are none.

    Attributes:
        mode: one of `MODES`.
        image: (b, 3, h, w) in [-1, 1].
        last_image: likewise, of its own size.
        video: (b, 3, t, h, w) in [-1, 1].
        region: (b, 1, t or 1, h, w), 1 = generate.
        outpaint_scale: size of an outpainted video in its frame, as a share of each side.
    """

    mode: str
    image: Tensor | None = None
    video: Tensor | None = None
    region: Tensor | None = None
    outpaint_scale: float = 0.75
    last_image: Tensor | None = None

    def still(self, num_frames: int, size: tuple[int, int]) -> Tensor | None:
        """The given picture on every frame, first into last where there are both, (b, 3, t, h, w); None without."""
        first, last = (
            None if picture is None else fit(picture.unsqueeze(2), size) for picture in (self.image, self.last_image)
        )
        if first is None or last is None:
            picture = last if first is None else first
            return None if picture is None else picture.expand(-1, -1, num_frames, -1, -1)
        share = torch.linspace(0, 1, num_frames).view(-1, 1, 1)
        return torch.lerp(first, last, share)

    def known(self, num_frames: int, size: tuple[int, int], scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """C (b, 3, t, h, w) and M (b, 1, t, h, w) of a conditioned mode.

        Args:
            num_frames: t.
            size: the base model's height and width.
            scale: how much larger C and M are to be; the mask is that of the base size, enlarged.
        """
        large = (round(size[0] * scale), round(size[1] * scale))
        if self.mode == "image_to_video":
            first, last = (
                None if picture is None else fit(picture.unsqueeze(2), large)[:, :, 0]
                for picture in (self.image, self.last_image)
            )
            return conditioning.image_to_video(first, num_frames, last)
        if self.mode == "cinemagraph":
            assert self.image is not None and self.region is not None
            region = fit_region(self.region, size, large)[:, :, 0]
            return conditioning.cinemagraph(fit(self.image.unsqueeze(2), large)[:, :, 0], region, num_frames)
        assert self.video is not None
        if self.mode == "inpainting":
            assert self.region is not None
            region = fit_region(self.region, size, large).expand(-1, -1, num_frames, -1, -1)
            return conditioning.inpainting(fit(self.video, large), region)
        assert self.mode == "outpainting"
        # Margins are whole pixels of the base size on both sides, so that they scale.
        least = 0 if self.outpaint_scale == 1 else 1
        inner = [side - 2 * max(least, round(side * (1 - self.outpaint_scale) / 2)) for side in size]
        if min(inner) < 1:
            raise ValueError(f"outpaint_scale is {self.outpaint_scale}; nothing of the video is left; make it larger")
        video = fit(self.video, (round(inner[0] * scale), round(inner[1] * scale)))
        return conditioning.outpainting(video, *large)


def fit(video: Tensor, size: tuple[int, int]) -> Tensor:
    """(b, c, t, h, w) centre-cropped to the aspect ratio of `size`, then resized to it."""
    height, width = video.shape[-2:]
    share = min(height / size[0], width / size[1])
    inner = (min(height, round(size[0] * share)), min(width, round(size[1] * share)))
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    return resize_video(video[..., top : top + inner[0], left : left + inner[1]], size)


def fit_region(region: Tensor, size: tuple[int, int], large: tuple[int, int]) -> Tensor:
    """A region at the base `size`, then enlarged to `large`: 0 or 1. Known pixels have to be known whole."""
    small = (fit(region, size) > 0).to(region.dtype)
    if not bool(small.flatten(1).any(dim=1).all()):
        raise ValueError(
            "mask: no region is left in the model's frame; mark 1 (white) where to generate, near the middle"
        )
    batch_size, _, num_frames = small.shape[:3]
    enlarged = F.interpolate(small.flatten(0, 2).unsqueeze(1), size=large, mode="nearest-exact")
    return enlarged.view(batch_size, 1, num_frames, *large)


# --- reading ---------------------------------------------------------------------------------------------------------


def read_given(
    mode: str,
    image: Any,
    video: Any,
    mask: Any,
    outpaint_scale: float,
    num_prompts: int,
    videos_per_prompt: int,
    last_image: Any = None,
) -> Given:
    """The user's pixels, one row per generated video.

    Raises:
        ValueError: on pixels that cannot be used, naming the argument and the cure.
    """
    pixels = {
        "image": None if image is None else read_image(image),
        "last_image": None if last_image is None else read_image(last_image, "last_image"),
        "video": None if video is None else read_video(video),
        "mask": None,
    }
    name = MODES[mode][0] if mask is not None else ""
    subject = pixels.get(name)
    if subject is not None:
        region = pixels["mask"] = read_mask(mask, subject, name)
        if mode == "cinemagraph" and region.shape[2] != 1:
            raise ValueError(f"mask has {region.shape[2]} frames; a cinemagraph takes one still mask (h, w)")
    rows = {name: spread(value, num_prompts, videos_per_prompt, name) for name, value in pixels.items()}
    return Given(mode, rows["image"], rows["video"], rows["mask"], outpaint_scale, rows["last_image"])


def read_image(image: Any, name: str = "image") -> Tensor:
    """(b, 3, h, w) in [-1, 1] from a tensor (b, 3, h, w) or (3, h, w) in [0, 1], an array (h, w, 3) or (b, h, w, 3), a
    PIL image or a list of them.

    Raises:
        ValueError: on anything else, with the cure.
    """
    if isinstance(image, (list, tuple)) and image and all(isinstance(entry, Image.Image) for entry in image):
        return _same_size([read_image(entry, name) for entry in image], name).flatten(0, 1)
    values = _tensor(image, name, channels_last_at=(3, 4))
    if values.ndim == 3:
        values = values.unsqueeze(0)
    if values.ndim != 4 or values.shape[1] != 3 or 0 in values.shape:
        raise ValueError(f"{name} has shape {tuple(values.shape)}; expected a tensor (b, 3, h, w) or an RGB picture")
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
        if all(isinstance(entry, Image.Image) or getattr(entry, "ndim", None) == 3 for entry in video):
            video = _same_size([_tensor(frame, "video", channels_last_at=(3,)) for frame in video], "video")
        else:
            clips = [read_video(clip) for clip in video]
            if len({clip.shape for clip in clips}) > 1:
                raise ValueError("video: the clips of the list differ in size or length; make them alike, or pass one")
            return torch.cat(clips)
    values = _tensor(video, "video", channels_last_at=(4, 5))
    if values.ndim == 4:
        values = values.unsqueeze(0)
    if values.ndim == 5 and values.shape[1] == 0:
        raise ValueError("video has no frames; pass at least one")
    if values.ndim != 5 or values.shape[2] != 3 or 0 in values.shape:
        raise ValueError(f"video has shape {tuple(values.shape)}; expected (b, t, 3, h, w) or (t, 3, h, w)")
    return values.transpose(1, 2) * 2 - 1


def read_mask(mask: Any, like: Tensor, name: str) -> Tensor:
    """(b, 1, t, h, w) of 0 and 1 from (h, w), (t, h, w), (b, t, h, w) or (b, t, 1, h, w); t = 1 is a still mask.

    A list holds one mask (h, w) per frame.

    Args:
        mask: tensor or array (boolean, uint8, or float in [0, 1]), a PIL image, or a list of such; above one half =
            generate.
        like: the picture (b, 3, h, w) or video (b, 3, t, h, w) that it belongs to.
        name: what that is called.

    Raises:
        ValueError: on another size, another number of frames, or no region.
    """
    if isinstance(mask, (list, tuple)):
        values = _same_size([_mask_values(entry) for entry in mask], "mask") if mask else torch.zeros(0)
    else:
        values = _mask_values(mask)
    if not 2 <= values.ndim <= 5 or (values.ndim == 5 and values.shape[2] != 1):
        raise ValueError(
            f"mask has shape {tuple(values.shape)}; expected (h, w), (t, h, w), (b, t, h, w) or (b, t, 1, h, w)"
        )
    values = values.squeeze(2) if values.ndim == 5 else values
    values = values.view(*(1,) * (4 - values.ndim), *values.shape)  # (b, t, h, w)
    if values.shape[-2:] != like.shape[-2:]:
        raise ValueError(
            f"mask is {values.shape[-1]} x {values.shape[-2]} pixels, {name} {like.shape[-1]} x {like.shape[-2]}; "
            "make them the same size"
        )
    num_frames = like.shape[2] if like.ndim == 5 else 1
    if values.shape[1] not in (1, num_frames):
        raise ValueError(
            f"mask has {values.shape[1]} frames, {name} {num_frames}; pass one still mask, or one per frame"
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
    if values.numel() and getattr(mask, "dtype", None) in (np.uint8, torch.uint8) and values.max() <= 1 / 255:
        values = values * 255
    return values


def spread(tensor: Tensor | None, num_prompts: int, videos_per_prompt: int, name: str) -> Tensor | None:
    """One row per generated video, from one row for all or one per prompt."""
    if tensor is None:
        return None
    if len(tensor) not in (1, num_prompts):
        raise ValueError(
            f"{name} has {len(tensor)} entries for {num_prompts} prompts; pass one for all, or one per prompt"
        )
    tensor = tensor.expand(num_prompts, *tensor.shape[1:])
    return tensor.repeat_interleave(videos_per_prompt, dim=0)


def _same_size(pictures: list[Tensor], name: str) -> Tensor:
    """The pictures as one tensor, along a new first axis."""
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(f"{name}: pictures of different sizes; make them the same size")
    return torch.stack(pictures)


def _check_picture(picture: Image.Image, name: str) -> None:
    """Raises ValueError on a picture of several frames, or with transparency."""
    if getattr(picture, "n_frames", 1) > 1:
        raise ValueError(
            f"{name} is an animated picture; pass its first frame (picture.seek(0); picture.copy()), or a video"
        )
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        raise ValueError(f"{name} has transparency; paste it on a background and convert it to RGB first")


def _from_pil(picture: Image.Image, name: str) -> Tensor:
    """(3, h, w) in [0, 1]."""
    _check_picture(picture, name)
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255


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
        raise ValueError(f"{name} is a {type(value).__name__}; expected a tensor, a NumPy array or a PIL image")
    if tensor.dtype == torch.uint8:
        return tensor.float() / 255
    tensor = tensor.float()
    if tensor.numel() and not (tensor.min() >= 0 and tensor.max() <= 1):
        low, high = float(tensor.min()), float(tensor.max())
        raise ValueError(f"{name} has values from {low:g} to {high:g}; expected uint8, or numbers in [0, 1]")
    return tensor

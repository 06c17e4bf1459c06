"""The mode that a user's inputs mean, and these at the model's size.

Pictures and videos are centre-cropped to the model's aspect ratio, then resized: a circle stays a circle. A mask is 1
where to generate, and goes the same way as the picture or video that it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lumiere import conditioning
from lumiere.data.clips import resize_video
from lumiere.modes import CONDITIONED_MODES as CONDITIONED_MODES
from lumiere.modes import MODES as MODES
from lumiere.modes import infer_mode as infer_mode
from lumiere.pipelines.base import check_whole
from lumiere.pipelines.pixels import read_image, read_mask, read_video


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

    def count_frames(self, num_frames: int | None, default: int) -> int:
        """How many frames to make; a video tells it.

        Raises:
            ValueError: where the call says otherwise.
        """
        if num_frames is None:
            return default if self.video is None else self.video.shape[2]
        check_whole(1, num_frames=num_frames)
        if self.video is not None and num_frames != self.video.shape[2]:
            raise ValueError(
                f"num_frames is {num_frames}, but video has {self.video.shape[2]} frames; "
                "cut it, or leave num_frames out"
            )
        return num_frames

    def start(
        self, num_frames: int, size: tuple[int, int], strength: float, image_strength: float
    ) -> tuple[Tensor | None, float]:
        """The video (b, 3, t, h, w) that denoising starts from, noised (SDEdit), and the share of it that is done anew;
        (None, 1.0) is noise alone.
        """
        if self.mode == "video_to_video":
            assert self.video is not None
            return fit(self.video, size), strength
        still = self.still(num_frames, size) if image_strength < 1 else None
        return still, 1.0 if still is None else image_strength

    def still(self, num_frames: int, size: tuple[int, int]) -> Tensor | None:
        """The given picture on every frame, first into last where there are both, (b, 3, t, h, w); None without."""
        first, last = (
            None if picture is None else fit(picture.unsqueeze(2), size)
            for picture in (self.image, self.last_image)
        )
        if first is None or last is None:
            picture = last if first is None else first
            return None if picture is None else picture.expand(-1, -1, num_frames, -1, -1)
        share = torch.linspace(0, 1, num_frames).view(-1, 1, 1)
        return torch.lerp(first, last, share)

    def known(
        self, num_frames: int, size: tuple[int, int], scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
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
            return conditioning.cinemagraph(
                fit(self.image.unsqueeze(2), large)[:, :, 0], region, num_frames
            )
        assert self.video is not None
        if self.mode == "inpainting":
            assert self.region is not None
            region = fit_region(self.region, size, large).expand(-1, -1, num_frames, -1, -1)
            return conditioning.inpainting(fit(self.video, large), region)
        assert self.mode == "outpainting"
        # Margins are whole pixels of the base size on both sides, so that they scale.
        least = 0 if self.outpaint_scale == 1 else 1
        inner = [
            side - 2 * max(least, round(side * (1 - self.outpaint_scale) / 2)) for side in size
        ]
        if min(inner) < 1:
            raise ValueError(
                f"outpaint_scale is {self.outpaint_scale}; nothing of the video is left; make it larger"
            )
        video = fit(self.video, (round(inner[0] * scale), round(inner[1] * scale)))
        return conditioning.outpainting(video, *large)


def cropped_size(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the largest part of a frame of `size` that has the aspect ratio of `target`."""
    share = min(size[0] / target[0], size[1] / target[1])
    return min(size[0], round(target[0] * share)), min(size[1], round(target[1] * share))


def fit(video: Tensor, size: tuple[int, int]) -> Tensor:
    """(b, c, t, h, w) centre-cropped to the aspect ratio of `size`, then resized to it."""
    height, width = video.shape[-2:]
    inner = cropped_size((height, width), size)
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
        pixels["mask"] = read_mask(mask, subject, name)
    rows = {
        name: spread(value, num_prompts, videos_per_prompt, name) for name, value in pixels.items()
    }
    return Given(
        mode, rows["image"], rows["video"], rows["mask"], outpaint_scale, rows["last_image"]
    )


def spread(
    tensor: Tensor | None, num_prompts: int, videos_per_prompt: int, name: str
) -> Tensor | None:
    """One row per generated video, from one row for all or one per prompt."""
    if tensor is None:
        return None
    if len(tensor) not in (1, num_prompts):
        raise ValueError(
            f"{name} has {len(tensor)} entries for {num_prompts} prompts; pass one for all, or one per prompt"
        )
    tensor = tensor.expand(num_prompts, *tensor.shape[1:])
    return tensor.repeat_interleave(videos_per_prompt, dim=0)

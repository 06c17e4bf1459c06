"""The user's pictures, videos and masks, brought to the model's size.

Pictures and videos are centre-cropped to the model's aspect ratio, then resized, so that a circle
stays a circle. A mask is 1 where to generate, and is cropped and resized like the picture or video
that it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lumiere import conditioning
from lumiere.data.clips import resize_video
from lumiere.modes import DEFAULT_OUTPAINT_SCALE, subject
from lumiere.pipelines.argument_checks import check_whole
from lumiere.pipelines.pixels import read_image, read_mask, read_video
from lumiere.plurals import counted


@dataclass(frozen=True)
class SourcePixels:
    """The user's pixels at their own size, one row per generated video; None if there are none.

    Attributes:
        mode: a key of `lumiere.modes.MODES`.
        image: (b, 3, h, w) in [-1, 1].
        last_image: the same, of its own size.
        video: (b, 3, t, h, w) in [-1, 1].
        region: (b, 1, t or 1, h, w), 1 = generate.
        outpaint_scale: the share of each side that an outpainted video takes in its frame.
    """

    mode: str
    image: Tensor | None = None
    last_image: Tensor | None = None
    video: Tensor | None = None
    region: Tensor | None = None
    outpaint_scale: float = DEFAULT_OUTPAINT_SCALE

    def count_frames(self, num_frames: int | None, default: int) -> int:
        """Return how many frames to generate: as many as the video has, if there is one.

        Args:
            num_frames: the value of the call; None takes that of the video or the default.
            default: used without a video.

        Raises:
            ValueError: if the number of the call differs from that of the video.
        """
        if num_frames is None:
            return default if self.video is None else self.video.shape[2]
        check_whole(1, num_frames=num_frames)
        if self.video is not None and num_frames != self.video.shape[2]:
            raise ValueError(
                f"num_frames is {num_frames}, but video has {counted(self.video.shape[2], 'frame')}; "
                "cut it, or leave num_frames out"
            )
        return num_frames

    def starting_video(
        self, num_frames: int, size: tuple[int, int], strength: float, image_strength: float
    ) -> tuple[Tensor | None, float]:
        """Return the video that is noised and then denoised (SDEdit), and the share of steps to do.

        Args:
            num_frames, size: t, and height and width, of the result.
            strength: the share of steps in video_to_video.
            image_strength: the share of steps in modes with a picture.

        Returns:
            (b, 3, t, h, w) and the share of the steps; (None, 1.0) to start from noise alone.
        """
        if self.mode == "video_to_video":
            assert self.video is not None
            return fit(self.video, size), strength
        if image_strength == 1:
            return None, 1.0
        still = self.still_video(num_frames, size)
        return still, 1.0 if still is None else image_strength

    def still_video(self, num_frames: int, size: tuple[int, int]) -> Tensor | None:
        """Return the picture on every frame, (b, 3, t, h, w); the first one fades into the last
        one.
        """
        pictures = (self.image, self.last_image)
        fitted = [fit(picture.unsqueeze(2), size) for picture in pictures if picture is not None]
        if not fitted:
            return None
        if len(fitted) == 1:
            return fitted[0].expand(-1, -1, num_frames, -1, -1)
        share = torch.linspace(0, 1, num_frames, dtype=torch.float32).view(-1, 1, 1)
        return torch.lerp(fitted[0], fitted[1], share)

    def conditions(
        self, num_frames: int, size: tuple[int, int], scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return C (b, 3, t, h, w) and M (b, 1, t, h, w) of a conditioned mode.

        Args:
            num_frames: t.
            size: the base model's height and width.
            scale: how much larger than the base size C and M are. The mask is made at the base size
                and enlarged.

        Raises:
            ValueError: if nothing is left of the video or of the region.
        """
        large = (round(size[0] * scale), round(size[1] * scale))
        if self.mode == "image_to_video":
            first, last = _fit_picture(self.image, large), _fit_picture(self.last_image, large)
            return conditioning.image_to_video(first, num_frames, last)
        if self.mode == "cinemagraph":
            image = _fit_picture(self.image, large)
            assert image is not None and self.region is not None
            region = fit_region(self.region, size, large)[:, :, 0]
            return conditioning.cinemagraph(image, region, num_frames)
        assert self.video is not None
        if self.mode == "inpainting":
            assert self.region is not None
            region = fit_region(self.region, size, large).expand(-1, -1, num_frames, -1, -1)
            return conditioning.inpainting(fit(self.video, large), region)
        assert self.mode == "outpainting"
        inner = self._outpainted_size(size)
        video = fit(self.video, (round(inner[0] * scale), round(inner[1] * scale)))
        return conditioning.outpainting(video, *large)

    def _outpainted_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width of the video in its frame. Margins are whole pixels, so
        that they scale.
        """
        least = 0 if self.outpaint_scale == 1 else 1
        height_margin, width_margin = (
            max(least, round(side * (1 - self.outpaint_scale) / 2)) for side in size
        )
        inner = (size[0] - 2 * height_margin, size[1] - 2 * width_margin)
        if min(inner) < 1:
            raise ValueError(
                f"outpaint_scale is {self.outpaint_scale}; nothing of the video is left; "
                "make it larger"
            )
        return inner


def read_source_pixels(
    mode: str,
    image: Any,
    last_image: Any,
    video: Any,
    mask: Any,
    outpaint_scale: float,
    num_prompts: int,
    videos_per_prompt: int,
) -> SourcePixels:
    """Read the user's pixels and repeat them to one row per generated video.

    Raises:
        ValueError: if pixels cannot be used; the message names the argument and how to fix it.
    """
    pixels = {
        "image": None if image is None else read_image(image),
        "last_image": None if last_image is None else read_image(last_image, "last_image"),
        "video": None if video is None else read_video(video),
        "region": None,
    }
    if mask is not None:
        owner = subject(mode)
        assert owner is not None  # no mode takes a mask alone
        masked = pixels[owner]
        if masked is not None:
            pixels["region"] = read_mask(mask, masked, owner)
    rows: dict[str, Tensor | None] = {}
    for name, tensor in pixels.items():
        argument = "mask" if name == "region" else name
        rows[name] = _one_row_per_video(tensor, num_prompts, videos_per_prompt, argument)
    return SourcePixels(mode, **rows, outpaint_scale=outpaint_scale)


def cropped_size(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of the largest part of a frame with the aspect ratio of
    `target`.
    """
    share = min(size[0] / target[0], size[1] / target[1])
    return min(size[0], round(target[0] * share)), min(size[1], round(target[1] * share))


def fit(video: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop (b, c, t, h, w) at its centre to the aspect ratio of `size`, then resize it."""
    height, width = video.shape[-2:]
    inner = cropped_size((height, width), size)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    return resize_video(video[..., top : top + inner[0], left : left + inner[1]], size)


def fit_region(region: Tensor, size: tuple[int, int], large: tuple[int, int]) -> Tensor:
    """Fit a region to the base `size`, then enlarge it to `large`; 0 or 1.

    A pixel that is partly in the region counts as inside, because a known pixel must be known
    completely.

    Raises:
        ValueError: if no region is left.
    """
    small = (fit(region, size) > 0).to(region.dtype)
    if not bool(small.flatten(1).any(dim=1).all()):
        raise ValueError(
            "mask: no region is left in the model's frame; mark 1 (white) where to generate, "
            "near the middle"
        )
    batch_size, _, num_frames = small.shape[:3]
    enlarged = F.interpolate(small.flatten(0, 2).unsqueeze(1), size=large, mode="nearest-exact")
    return enlarged.view(batch_size, 1, num_frames, *large)


def _fit_picture(picture: Tensor | None, size: tuple[int, int]) -> Tensor | None:
    """Fit a picture to a size: (b, 3, h, w) -> (b, 3, *size)."""
    return None if picture is None else fit(picture.unsqueeze(2), size)[:, :, 0]


def _one_row_per_video(
    tensor: Tensor | None, num_prompts: int, videos_per_prompt: int, argument: str
) -> Tensor | None:
    """Repeat one row for all prompts, or one row per prompt, to one row per generated video."""
    if tensor is None:
        return None
    if len(tensor) not in (1, num_prompts):
        raise ValueError(
            f"{argument} has length {len(tensor)} for {counted(num_prompts, 'prompt')}; "
            "pass one for all, or one per prompt"
        )
    tensor = tensor.expand(num_prompts, *tensor.shape[1:])
    return tensor.repeat_interleave(videos_per_prompt, dim=0)

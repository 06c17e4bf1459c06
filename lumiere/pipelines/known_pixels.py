"""Known pixels: measures how well a video keeps them, and puts them back exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lumiere.data.pixel_values import psnr
from lumiere.pipelines.pipeline_output import to_output


@dataclass(frozen=True)
class KnownPixels:
    """The known part of a video, as the user passed it; callbacks do not change it.

    Attributes:
        pixels: C, (b, c, t, h, w) in [-1, 1]: the clean video times M.
        mask: M, (b, 1, t, h, w), 1 = known.
    """

    pixels: Tensor
    mask: Tensor

    def psnr(self, video: Tensor) -> Tensor:
        """Compute the PSNR (b,) in dB of a video (b, c, t, h, w) where M is 1; NaN if M is 0
        everywhere.
        """
        count = self.mask.flatten(1).sum(1) * video.shape[1]
        error = torch.zeros(len(video), dtype=torch.float32, device=video.device)
        for frame, pixels, mask in zip(
            video.unbind(2), self.pixels.unbind(2), self.mask.unbind(2), strict=True
        ):
            error += ((frame - pixels) * mask).square_().flatten(1).sum(1)
        decibels = [psnr(mse, value_range=2) for mse in (error / count).tolist()]
        return torch.tensor(decibels, dtype=torch.float32, device=video.device)

    def put_back(self, video: Tensor) -> Tensor:
        """Replace the pixels of a video (b, c, t, h, w) by the known ones where M is 1."""
        return torch.where(self.mask > 0.5, self.pixels, video)


def measure_known(
    video: Tensor, known: KnownPixels | None, put_back: bool
) -> tuple[Tensor, Tensor | None]:
    """Measure how well a video (b, c, t, h, w) keeps its known pixels, then put them back if asked.

    Returns:
        The video, and the PSNR (b,) in dB; None without known pixels.
    """
    if known is None:
        return video, None
    psnr_db = known.psnr(video)
    return (known.put_back(video) if put_back else video), psnr_db


def mask_of(known: KnownPixels | None) -> Tensor | None:
    """Return the mask of known pixels; None without any."""
    return None if known is None else known.mask


def known_output(known: KnownPixels | None) -> dict[str, Tensor]:
    """Return the known pixels in the form of `LumierePipelineOutput`."""
    if known is None:
        return {}
    return {"known": to_output(known.pixels, "pt"), "known_mask": known.mask.transpose(1, 2)}

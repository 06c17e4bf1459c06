"""Takes speckle out of a video that is made. Our own step, not the paper's.

A network that was trained for a short time leaves speckle of a few grey levels, in flat backgrounds
and inside of subjects. What the filter gains is in docs/sampling.md, "Speckle".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GREY_LEVEL = 2 / 255  # of pixels from -1 to 1


def smooth_in_space(video: Tensor, grey_levels: float, kept: Tensor | None = None) -> Tensor:
    """Return the mean of each pixel and of those of its eight neighbours that are like it.

    This is a bilateral filter (Tomasi and Manduchi 1998) of 3 × 3 pixels. A neighbour's weight falls
    from 1 for an equal colour to 0 for one that differs by `grey_levels` in some channel, so that
    speckle goes and an edge stays. At the border of a frame, a pixel stands in for the neighbours
    that it lacks.

    Args:
        video: (b, c, t, h, w), pixels from -1 to 1.
        grey_levels: of 255; at this difference a neighbour is another thing. 0 changes nothing.
        kept: (b, 1, t, h, w), 1 where pixels stay as they are. They are still read as neighbours.

    Returns:
        (b, c, t, h, w).
    """
    if grey_levels == 0:
        return video
    height, width = video.shape[-2:]
    padded = F.pad(video, (1, 1, 1, 1, 0, 0), mode="replicate")
    total, weights = video.clone(), torch.ones_like(video[:, :1])
    for row in range(3):
        for column in range(3):
            if row == column == 1:
                continue
            neighbour = padded[..., row : row + height, column : column + width]
            difference = (neighbour - video).abs().amax(1, keepdim=True)
            weight = (1 - difference / (grey_levels * GREY_LEVEL)).clamp(min=0)
            total += weight * neighbour
            weights += weight
    smooth = total / weights
    return smooth if kept is None else torch.where(kept > 0.5, video, smooth)

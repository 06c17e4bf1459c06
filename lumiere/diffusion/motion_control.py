"""More motion and less flicker, at the noise levels that decide them. Our own method, not the paper's.

A network that was trained for a short time moves too little and flickers too much. Both can be
changed in its estimate of x_0, without another forward pass. At high noise levels, where the
layout of each frame is decided, the difference of each frame from the mean frame is scaled. At low
noise levels, where details are decided, each frame goes towards the median of itself and its
neighbours. What it gains is in docs/sampling.md, "Motion and flicker".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lumiere.diffusion.projection import x_0_line


@dataclass(frozen=True)
class MotionControl:
    """Scales motion and smooths over time, each in its interval of timesteps.

    Attributes:
        scale: the factor of each frame's difference from `slow_course`; 1 changes nothing.
        interval: the lowest and the highest timestep at which it acts.
        smoothing: 0 to 1, how far each number of a frame goes to the median of itself and its
            neighbours in time; 0 changes nothing. A median takes out flicker and keeps the edge of
            what moves, where a mean would blur it.
        smoothing_interval: the same for the smoothing.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 0.0)
    smoothing: float = 0.0
    smoothing_interval: tuple[float, float] = (0.0, 0.0)

    def scales_at(self, timestep: Tensor | float) -> bool:
        """Return whether motion is scaled at a timestep."""
        low, high = self.interval
        return self.scale != 1 and low <= float(timestep) <= high

    def smooths_at(self, timestep: Tensor | float) -> bool:
        """Return whether frames are smoothed at a timestep."""
        low, high = self.smoothing_interval
        return self.smoothing != 0 and low <= float(timestep) <= high

    def is_skipped_by(self, timesteps: Tensor) -> bool:
        """Return whether motion should be scaled, and steps pass its interval without a stop."""
        visited = timesteps.tolist()
        passes = bool(visited) and visited[0] >= self.interval[1]
        return self.scale != 1 and passes and not any(map(self.scales_at, visited))

    def acts_at(self, timestep: Tensor | float) -> bool:
        """Return whether anything is changed at a timestep."""
        return self.scales_at(timestep) or self.smooths_at(timestep)

    def change(
        self,
        model_output: Tensor,
        scaled_x_t: Tensor,
        timestep: Tensor | float,
        prediction_type: str,
        alpha: Tensor,
        sigma: Tensor,
        windows: Sequence[tuple[int, int]],
    ) -> Tensor:
        """Return the model output whose estimate of x_0 is changed, float32; pass whole clips.

        Args:
            model_output: (b, c, t, h, w).
            scaled_x_t: the network's input without conditions, same shape.
            timestep: 0-d.
            prediction_type: the network's.
            alpha, sigma: from `lumiere.diffusion.schedulers.signal_level`.
            windows: half-open frame ranges that cover the clip.
        """
        offset, slope = x_0_line(prediction_type, alpha, sigma)
        model_output = model_output.float()
        pred_x_0 = offset * scaled_x_t.float() + slope * model_output
        changed = pred_x_0
        if self.scales_at(timestep):
            changed = torch.lerp(slow_course(pred_x_0, windows), pred_x_0, self.scale)
        if self.smooths_at(timestep):
            changed = torch.lerp(changed, smooth(changed), self.smoothing)
        return model_output + (changed - pred_x_0) / slope


def slow_course(clips: Tensor, windows: Sequence[tuple[int, int]]) -> Tensor:
    """Return what motion is measured against: the mean frame of a clip of one window.

    In a longer clip, it goes from the mean of each window to that of the next one, in a straight
    line between the middles of the windows. If each window had its own mean, a clip would jump
    where a window begins.

    Args:
        clips: (b, c, t, h, w).
        windows: half-open frame ranges that cover t, in order.

    Returns:
        (b, c, t, h, w), or (b, c, 1, h, w) for one window.
    """
    means = [clips[:, :, start:end].mean(2) for start, end in windows]
    if len(means) == 1:
        return means[0].unsqueeze(2)
    middles = [(start + end - 1) / 2 for start, end in windows]
    weights = np.stack(  # (t, windows): each row mixes the means of two neighbours
        [np.interp(np.arange(clips.shape[2]), middles, row) for row in np.eye(len(means))], axis=1
    )
    mixed = torch.tensor(weights, dtype=clips.dtype, device=clips.device)
    return torch.einsum("bcnhw,tn->bcthw", torch.stack(means, dim=2), mixed)


def smooth(clips: Tensor) -> Tensor:
    """Return the median of each frame and the frames before and after it, number by number.

    The first and the last frame of a clip stay, because they count twice.
    """
    before = torch.cat([clips[:, :, :1], clips[:, :, :-1]], dim=2)
    after = torch.cat([clips[:, :, 1:], clips[:, :, -1:]], dim=2)
    # The middle of three numbers, without a stack of the three.
    low, high = torch.minimum(before, after), torch.maximum(before, after)
    return torch.minimum(torch.maximum(clips, low), high)

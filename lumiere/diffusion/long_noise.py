"""The noise of clips that are longer than one window (FreeNoise, Qiu et al. 2023, arXiv 2310.15169).

The low frequencies of the noise decide much of what a network shows. If a network sees a clip in
windows of independent noise, the scene changes from window to window. Here the noise of later
windows is a shuffle of the noise of the first one: each window has the same frames of noise, in
another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

LONG_NOISE = ("independent", "rescheduled")


def reschedule_noise(
    noise: Tensor, windows: Sequence[tuple[int, int]], generators: Sequence[torch.Generator]
) -> Tensor:
    """Replace the noise after the first window, in place, by shuffles of the first window's frames.

    The frames that a window adds to the window before it are a shuffle of the frames that it no
    longer covers. So every window is a permutation of the first. A clip of one window does not
    change, and its generators are not used.

    Args:
        noise: standard normal, (b, c, t, h, w).
        windows: half-open frame ranges of equal length that cover t in ascending order, as
            `lumiere.diffusion.windows.temporal_windows` returns them.
        generators: one per row, which decides the row's shuffles.

    Returns:
        `noise` itself.
    """
    for row, source in zip(noise, generators, strict=True):
        for (start, end), (next_start, next_end) in pairwise(windows):
            order = torch.randperm(next_start - start, generator=source, device=source.device)
            row[:, end:next_end] = row[:, start + order.to(noise.device)]
    return noise

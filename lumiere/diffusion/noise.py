"""Seeds and noise: a video's noise depends on its own seed and not on its batch.

The noise of different frames may be correlated (Ge et al. 2023, arXiv 2305.10474).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def video_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, num_videos: int
) -> list[torch.Generator]:
    """Make one generator per video, so that a video's noise does not depend on the rest of its
    batch.

    Each is seeded by a number drawn from the caller's generator. The first video of a batch equals
    the video that the same seed makes alone; with a list of generators this holds for every video.
    Videos of one generator never share their noise: torch's CPU generator uses only the lower 32
    bits of a seed, so a number that repeats these bits is drawn again.

    Args:
        generator: one for all, one per video, or None for torch's global state.
        num_videos: how many generators to make.

    Raises:
        ValueError: if a list has another length.
    """
    if generator is None or isinstance(generator, torch.Generator):
        device = torch.device("cpu") if generator is None else generator.device
        seeds = draw_seeds(generator, num_videos)
        return [torch.Generator(device).manual_seed(seed) for seed in seeds]
    if len(generator) != num_videos:
        raise ValueError(
            f"generator is a list of {len(generator)}; pass one per video, {num_videos} in all"
        )
    return [child for source in generator for child in video_generators(source, 1)]


def draw_seeds(generator: torch.Generator | None, count: int) -> list[int]:
    """Draw `count` seeds that differ in their lower 32 bits."""
    device = torch.device("cpu") if generator is None else generator.device
    seeds: dict[int, int] = {}
    while len(seeds) < count:
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        seeds.setdefault(seed % 2**32, seed)
    return list(seeds.values())


def draw_noise(
    shape: Sequence[int],
    generators: Sequence[torch.Generator],
    device: torch.device,
    correlation: float = 0.0,
) -> Tensor:
    """Draw standard normal noise, float32; row i comes from generator i, on that generator's
    device.

    Args:
        shape: (b, ...); (b, c, t, h, w) for clips, whose noise may be correlated.
        generators: one per row.
        device: of the result.
        correlation: between the noise of any two frames of a clip, 0 to 1. At 0 the frames are
            independent; at 1 they are equal.
    """
    # float32 whatever torch's default dtype is, because a seed draws other numbers in float64.
    noise = torch.empty(tuple(shape), dtype=torch.float32, device=device)
    for row, source in zip(noise, generators, strict=True):
        row.copy_(_standard_normal(row.shape, source))
        if correlation and row.ndim == 4 and row.shape[1] > 1:
            shared_shape = (row.shape[0], 1, *row.shape[2:])
            shared = _standard_normal(shared_shape, source)
            row.mul_(math.sqrt(1 - correlation))
            row.add_(shared.to(row.device), alpha=math.sqrt(correlation))
    return noise


def _standard_normal(shape: Sequence[int], source: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=source, dtype=torch.float32, device=source.device)

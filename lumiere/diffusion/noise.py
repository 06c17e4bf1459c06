"""Seeds and noise: a video's noise depends on its own seed and not on its batch."""

from __future__ import annotations

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
            f"generator is a list of {len(generator)} for {num_videos} videos; pass one per video"
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
    shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device
) -> Tensor:
    """Draw standard normal noise, float32; row i comes from generator i, on that generator's
    device.
    """
    noise = torch.empty(tuple(shape), device=device)
    for row, source in zip(noise, generators, strict=True):
        row.copy_(torch.randn(row.shape, generator=source, device=source.device))
    return noise

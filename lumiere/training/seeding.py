"""Randomness as a pure function of seed, rank and step: a resumed run draws the same bits."""

from __future__ import annotations

import hashlib

import torch


def generator_for(*key: int | str) -> torch.Generator:
    """Make a generator seeded from words and numbers, such as ("noise", seed, rank, step)."""
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def draw_below(generator: torch.Generator, bound: int) -> int:
    """Draw a whole number from 0 to bound - 1."""
    return int(torch.randint(bound, (), generator=generator))

"""When two captions count as the same."""

from __future__ import annotations


def caption_key(text: str) -> str:
    """Return what equal captions share: the text without case, outer spaces and runs of spaces."""
    return " ".join(text.casefold().split())

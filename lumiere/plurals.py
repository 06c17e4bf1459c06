"""Writes counts, lists and quotations for messages."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, noun: str) -> str:
    """Write "1 score" or "3 scores"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def there_are(count: int, noun: str) -> str:
    """Write "there is 1 clip" or "there are 3 clips"."""
    return f"there {is_or_are(count)} {counted(count, noun)}"


def shortened(text: str, most: int = 300) -> str:
    """Return a text, or its beginning and "..." if it has more than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def some_of(names: Sequence[str], most: int) -> str:
    """List the first names, such as "a, b, ..." of four."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def has_or_have(count: int) -> str:
    """Write the verb for so many owners."""
    return "has" if count == 1 else "have"


def is_or_are(count: int) -> str:
    """Write the verb for so many things."""
    return "is" if count == 1 else "are"

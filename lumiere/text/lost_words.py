"""Finds what a text encoder does not read: words behind its last token, and words that it does not know.

Encoders cut long sentences and replace unknown words without a sign, so that two different prompts
can give the same video.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lumiere.plurals import shortened, some_of
from lumiere.text import TextEncoder

SHOWN = 3  # sentences that a note quotes
QUOTED = 60  # characters of each


@dataclass(frozen=True)
class Loss:
    """The parts of a sentence that a text encoder does not read.

    Attributes:
        num_cut: tokens behind the encoder's last one.
        unknown: the words or characters that the encoder does not know.
    """

    num_cut: int
    unknown: tuple[str, ...]


def find_losses(texts: Iterable[str], encoder: TextEncoder) -> dict[str, Loss]:
    """Return what is lost, by sentence, for each sentence that loses something.

    The encoder counts (`TextEncoder.read_words`); one that does not count loses nothing here.
    """
    losses: dict[str, Loss] = {}
    for text in dict.fromkeys(texts):
        num_tokens, unknown = encoder.read_words(text)
        loss = Loss(max(0, num_tokens - encoder.max_tokens), unknown)
        if loss.num_cut or loss.unknown:
            losses[text] = loss
    return losses


def notes(losses: dict[str, Loss], encoder: TextEncoder) -> list[str]:
    """Say how many sentences are cut or not understood, with some of them."""
    cut = [text for text, loss in losses.items() if loss.num_cut]
    odd = [text for text, loss in losses.items() if loss.unknown]
    lines = []
    if cut:
        what = "1 sentence is" if len(cut) == 1 else f"{len(cut)} sentences are"
        ends = "its end is" if len(cut) == 1 else "their ends are"
        lines.append(
            f"{what} longer than {encoder.max_tokens} tokens, and {ends} not read: {_quoted(cut)}"
        )
    if odd:
        words = dict.fromkeys(word for text in odd for word in losses[text].unknown)
        shown = " ".join(list(words)[:10])
        what = "1 sentence holds" if len(odd) == 1 else f"{len(odd)} sentences hold"
        lines.append(f"{what} words that the text encoder does not know ({shown}): {_quoted(odd)}")
    return lines


def _quoted(texts: list[str]) -> str:
    return some_of([f"'{shortened(text, QUOTED)}'" for text in texts], SHOWN)

"""Finds what a text encoder does not read: words behind its last token, and words that it does not know.

Encoders cut long sentences and replace unknown words without a sign, so that two different prompts
can give the same video.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lumiere.text import TextEncoder
from lumiere.text.hub import pipeline_folder
from lumiere.text.minilm_encoder import model_folder

SHOWN = 3  # sentences that a note quotes
QUOTED = 60  # characters of each


@dataclass(frozen=True)
class Loss:
    """What is lost of a sentence.

    Attributes:
        num_cut: tokens behind the encoder's last one.
        unknown: the words or characters that the encoder does not know.
    """

    num_cut: int
    unknown: tuple[str, ...]


def find_losses(texts: Iterable[str], encoder: TextEncoder) -> dict[str, Loss]:
    """Return what is lost, by sentence, for each sentence that loses something.

    Encoders of an unknown kind lose nothing that can be found.
    """
    read = _reader(encoder.name)
    losses: dict[str, Loss] = {}
    if read is None:
        return losses
    for text in dict.fromkeys(texts):
        num_tokens, unknown = read(text)
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
        lines.append(
            f"{len(cut)} sentences are longer than {encoder.max_tokens} tokens, and their ends are "
            f"not read: {_quoted(cut)}"
        )
    if odd:
        words = dict.fromkeys(word for text in odd for word in losses[text].unknown)
        shown = " ".join(list(words)[:10])
        lines.append(
            f"{len(odd)} sentences hold words that {encoder.name} does not know ({shown}): "
            f"{_quoted(odd)}"
        )
    return lines


def _quoted(texts: list[str]) -> str:
    quotes = [f"'{text[:QUOTED]}{'…' if len(text) > QUOTED else ''}'" for text in texts[:SHOWN]]
    return ", ".join(quotes) + (", …" if len(texts) > SHOWN else "")


@functools.cache
def _reader(name: str) -> Callable[[str], tuple[int, tuple[str, ...]]] | None:
    """Return a function that counts a sentence's tokens, with its start and end, and lists its
    unknown words; None for an encoder of another kind.
    """
    family, _, source = name.partition(":")
    if family == "open_clip":
        import open_clip

        tokenizer: Any = open_clip.get_tokenizer(source.partition("/")[0])
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        if not hasattr(tokenizer, "unk_token_id"):  # byte pairs: every character is known
            return lambda text: (len(tokenizer.encode(text)) + 2, ())
    elif family == "diffusers":
        from transformers import AutoTokenizer

        folder = pipeline_folder(source, "tokenizer") / "tokenizer"
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    elif family == "minilm":
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model_folder(), local_files_only=True)
    else:
        return None
    return functools.partial(_read, tokenizer)


def _read(tokenizer: Any, text: str) -> tuple[int, tuple[str, ...]]:
    ids = tokenizer(text, truncation=False, verbose=False)["input_ids"]
    if tokenizer.unk_token_id not in ids:
        return len(ids), ()
    unknown = [word for word in text.split() if tokenizer.unk_token in tokenizer.tokenize(word)]
    return len(ids), tuple(dict.fromkeys(unknown))

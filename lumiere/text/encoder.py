"""The base class of text encoders, which turn sentences into token states and their mask.

An encoder is frozen and loads its weights on first use. A model stores only the encoder's small
JSON config (its name and its number of tokens), so saving a pipeline never copies the weights of an
encoder.
"""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lumiere.text_config import write_text_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONG_WORD = 24  # characters


def read_with_tokenizer(
    tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[int, tuple[str, ...]]:
    """Do the work of `TextEncoder.read_words` with a tokenizer of transformers."""
    ids = tokenizer(text, truncation=False, verbose=False)["input_ids"]
    unknown_id = tokenizer.unk_token_id
    if unknown_id not in ids:
        return len(ids), ()
    unknown = []
    for word in text.split():
        # By number: T5's tokenizer names an unknown token by its own characters.
        if unknown_id in tokenizer(word, add_special_tokens=False)["input_ids"]:
            unknown.append(word)
    return len(ids), tuple(dict.fromkeys(unknown))


def find_cut(tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int) -> int | None:
    """Return how many characters lie before the cut, see `TextEncoder.num_read`; None if the
    tokenizer is not a fast one, because only fast tokenizers say where their tokens lie.
    """
    if not tokenizer.is_fast:
        return None
    tokens = tokenizer(text, truncation=True, max_length=max_tokens, return_offsets_mapping=True)
    return max((end for _, end in tokens["offset_mapping"]), default=0)  # marks lie at (0, 0)


class TextEncoder(ABC):
    """Turns sentences into token states for cross-attention."""

    name: str
    embed_dim: int

    def __init__(self, max_tokens: int = 32) -> None:
        """`max_tokens`: every sentence is padded or cut to this many tokens."""
        self.max_tokens = max_tokens

    @abstractmethod
    def _token_states(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Return token states (b, n, d) and mask (b, n), 1 = a token, n = max_tokens."""

    @torch.no_grad()
    def encode(self, texts: list[str], batch_size: int = 64) -> tuple[Tensor, Tensor]:
        """Encode sentences; the empty sentence is the unconditional prompt.

        Args:
            texts: b sentences, in a list.
            batch_size: sentences that go through the network at once.

        Returns:
            prompt_embeds (b, max_tokens, embed_dim), float32, zero where padded; mask (b,
            max_tokens), int64, 1 = attend.

        Raises:
            ValueError: if `texts` is a single string, which would otherwise be encoded letter by
                letter.
        """
        if isinstance(texts, str):
            raise ValueError(f"texts is the string {texts!r}; expected a list of strings")
        chunks = [
            self._token_states(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)
        ]
        if not chunks:
            empty = torch.zeros(0, self.max_tokens, self.embed_dim, dtype=torch.float32)
            return empty, torch.zeros(0, self.max_tokens, dtype=torch.int64)
        states = torch.cat([chunk[0] for chunk in chunks]).float()
        mask = torch.cat([chunk[1] for chunk in chunks]).long()
        # Padding carries no meaning; zeros keep it from leaking through layers that take no mask.
        return states * mask.unsqueeze(-1), mask

    def read_words(self, text: str) -> tuple[int, tuple[str, ...]]:
        """Return how many tokens a sentence has before it is cut, with its start and end, and the
        words or characters that the encoder does not know.

        Encoders that do not override this method lose nothing that can be found.
        """
        return 0, ()

    def num_read(self, text: str) -> int:
        """Return how many characters of a sentence the encoder reads before the cut."""
        if self.read_words(text)[0] <= self.max_tokens:
            return len(text)
        cut = self._find_cut(text)
        return self._search_cut(text) if cut is None else min(cut, len(text))

    def _find_cut(self, text: str) -> int | None:
        """Return how many characters of a long sentence are read; None if offsets are unknown."""
        return None

    def _search_cut(self, text: str) -> int:
        """Return the length of the longest beginning that fits. A part of a word can have more tokens
        than the whole word, so the search goes on to the end of the word. If the cut falls
        within a word, the result may differ by some letters from the encoder's own cut.
        """

        def is_read(end: int) -> bool:
            return self.read_words(text[:end])[0] <= self.max_tokens

        found = bisect.bisect_left(range(1, len(text) + 1), True, key=lambda end: not is_read(end))
        return max((end for end in range(found, found + LONG_WORD) if is_read(end)), default=0)

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Write the config; the weights stay in the package or hub that they come from."""
        write_text_config(Path(folder), self.name, self.max_tokens)

"""The text tower of an open_clip model: token states before pooling.

The states come from the penultimate layer and pass the tower's last norm, as in Stable Diffusion 2
(`FrozenOpenCLIPEmbedder`, layer "penultimate"): CLIP trains its last layer for the one pooled
vector.
"""

from __future__ import annotations

import bisect
import difflib
import functools
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lumiere.errors import one_line
from lumiere.text.encoder import TextEncoder, find_cut, read_with_tokenizer

if TYPE_CHECKING:
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
    from open_clip.transformer import TextTransformer

MIN_TOKENS = 3  # a start, a word, an end


class OpenCLIPTextEncoder(TextEncoder):
    """A text tower of open_clip's own kind, with pre-trained weights."""

    def __init__(self, source: str, max_tokens: int = 32) -> None:
        """
        Args:
            source: "<architecture>/<weights>": one of `open_clip.list_models()`, and one of its
                pretrained tags or a .safetensors file of the whole CLIP model, its path relative to
                the current folder or absolute. A tag is downloaded, as safetensors if available;
                other files are read with weights_only.
            max_tokens: 3 to the tower's context length, 77 for most.

        Raises:
            ValueError: if the architecture, the weights or the length cannot be used.
        """
        self.name = f"open_clip:{source}"
        self.architecture, _, self.weights = source.partition("/")
        self.embed_dim, self.context_length = _describe(self.architecture)
        _check_weights(self.architecture, self.weights)
        if not MIN_TOKENS <= max_tokens <= self.context_length:
            most = f"{self.context_length}, which {self.architecture} takes"
            raise ValueError(f"max_tokens {max_tokens}; allowed: {MIN_TOKENS} to {most}")
        super().__init__(max_tokens)

    def _token_states(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        weights = (
            str(Path(self.weights).resolve()) if Path(self.weights).is_file() else self.weights
        )
        tokenizer, tower = _load(self.architecture, weights)
        wrapped = getattr(tokenizer, "tokenizer", None)  # of transformers, in open_clip's wrapper
        pad_id = 0 if wrapped is None else wrapped.pad_token_id
        # Cut here, so that a long sentence keeps its end.
        ids = tokenizer(texts, context_length=self.max_tokens)
        # Everything up to the last token that is no padding: in open_clip's own vocabulary 0 is "!"
        # as well.
        mask = (ids != pad_id).long().flip(1).cummax(dim=1).values.flip(1)
        # The tower's attention mask has a fixed size, so sentences are padded, and the states of
        # the padding are cut off again.
        ids = F.pad(ids, (0, self.context_length - self.max_tokens), value=pad_id)
        layer = max(len(tower.transformer.resblocks) - 2, 0)
        states = tower.forward_intermediates(
            ids,
            indices=[layer],
            stop_early=True,
            normalize_intermediates=True,
            intermediates_only=True,
            output_fmt="NLC",
        )["text_intermediates"][0]
        return states[:, : self.max_tokens], mask

    def read_words(self, text: str) -> tuple[int, tuple[str, ...]]:
        """See `TextEncoder.read_words`."""
        tokenizer = _load_tokenizer(self.architecture)
        wrapped = getattr(tokenizer, "tokenizer", tokenizer)
        if hasattr(wrapped, "unk_token_id"):
            return read_with_tokenizer(wrapped, tokenizer.clean_fn(text))
        # Byte pairs know every character.
        return len(tokenizer.encode(text)) + 2, ()

    def _find_cut(self, text: str) -> int | None:
        tokenizer = _load_tokenizer(self.architecture)
        if hasattr(tokenizer, "tokenizer"):
            cleaned = tokenizer.clean_fn(text)
            if len(cleaned) != len(text):
                return None
            return find_cut(tokenizer.tokenizer, cleaned, self.max_tokens)
        # Each character of a token stands for a byte of a word, and "</w>" marks the word's end.
        tokens = [tokenizer.decoder[i].removesuffix("</w>") for i in tokenizer.encode(text)]
        words = [character.lower().strip().encode() for character in text]
        if [tokenizer.byte_encoder[byte] for byte in b"".join(words)] != list("".join(tokens)):
            return None  # the tokenizer changed the text, so its bytes match no characters
        ends = list(itertools.accumulate(map(len, words)))
        end = bisect.bisect_right(ends, len("".join(tokens[: self.max_tokens - 2])))
        return len(text[:end].rstrip())


def _describe(architecture: str) -> tuple[int, int]:
    """Read the width of a token's state and the context length from open_clip's list of
    architectures.
    """
    import open_clip
    from open_clip.model import CLIPTextCfg

    architectures = open_clip.list_models()
    if architecture not in architectures:
        close = ", ".join(
            difflib.get_close_matches(architecture, architectures, n=5) or architectures[:5]
        )
        raise ValueError(
            f"open_clip architecture {architecture!r}; allowed: one of open_clip's, such as {close}"
        )
    config = CLIPTextCfg(**open_clip.get_model_config(architecture)["text_cfg"])
    if config.hf_model_name:
        raise ValueError(
            f"open_clip architecture {architecture!r} has the text tower {config.hf_model_name}; "
            "allowed: an architecture whose text tower is open_clip's own"
        )
    return config.width, config.context_length


def _check_weights(architecture: str, weights: str) -> None:
    """Raise ValueError unless `weights` is a safetensors file or a tag of this architecture."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if weights in tags or (Path(weights).suffix == ".safetensors" and Path(weights).is_file()):
        return
    what = f"weights {weights!r}" if weights else "no weights"
    raise ValueError(
        f"open_clip:{architecture}: {what}; allowed: open_clip:{architecture}/ and a .safetensors file"
        + (f", or one of {', '.join(tags)}" if tags else "")
    )


@functools.cache
def _load_tokenizer(architecture: str) -> SimpleTokenizer | HFTokenizer:
    import open_clip

    return open_clip.get_tokenizer(architecture)


@functools.cache
def _load(architecture: str, weights: str) -> tuple[SimpleTokenizer | HFTokenizer, TextTransformer]:
    """Load the tokenizer and the text tower; the image tower is dropped."""
    import open_clip

    try:
        # The initial weights are replaced at once. Drawing them must not change the caller's random
        # numbers.
        with torch.random.fork_rng(devices=[]):
            model = open_clip.create_model(
                architecture,
                pretrained=weights,
                force_custom_text=True,
                require_pretrained=True,
                weights_only=True,
            )
        tokenizer = _load_tokenizer(architecture)
    except Exception as error:  # a download, a file, or keys that do not fit
        raise ValueError(
            f"open_clip:{architecture}/{weights}: cannot be loaded: {one_line(error)}"
        ) from None
    return tokenizer, model.text.eval().requires_grad_(False)

"""The text encoder and the tokenizer of another pipeline, as they are in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers import DiffusionPipeline
from torch import Tensor

from lumiere.text.diffusers_encoder import KINDS, MAX_TOKENS, TOKENIZER, token_states
from lumiere.text.encoder import TextEncoder, read_with_tokenizer
from lumiere.text_config import CONFIG_NAME

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class PassedTextEncoder(TextEncoder):
    """A text encoder of transformers, T5 or CLIP, used as its pipeline of diffusers does.

    `save_pretrained` writes weights and tokenizer, so the saved pipeline needs no other folder.
    """

    name = "passed"

    def __init__(
        self, text_encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
    ) -> None:
        """
        Args:
            text_encoder: a T5EncoderModel or a CLIPTextModel.
            tokenizer: its tokenizer.

        Raises:
            ValueError: if the text encoder is of another class, or there is no tokenizer.
        """
        self.kind = type(text_encoder).__name__
        if self.kind not in KINDS or tokenizer is None:
            raise ValueError(
                f"text_encoder is a {self.kind} with a {type(tokenizer).__name__} for a tokenizer; "
                f"allowed: {', '.join(KINDS)} with its tokenizer. Otherwise pass text_encoder=None, "
                "and prompt_embeds in each call"
            )
        self.model, self.tokenizer = text_encoder, tokenizer
        self.embed_dim = text_encoder.config.hidden_size
        positions = getattr(text_encoder.config, "max_position_embeddings", MAX_TOKENS)
        super().__init__(min(int(tokenizer.model_max_length), positions, MAX_TOKENS))

    def _token_states(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        kind = KINDS[self.kind]
        return token_states(texts, self.tokenizer, self.model, kind, self.max_tokens)

    def read_words(self, text: str) -> tuple[int, tuple[str, ...]]:
        """See `TextEncoder.read_words`."""
        return read_with_tokenizer(self.tokenizer, KINDS[self.kind].prepare(text))

    def _find_cut(self, text: str) -> int | None:
        return KINDS[self.kind].find_cut(self.tokenizer, text, self.max_tokens)

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Write the folders of the text encoder and, beside it, of the tokenizer, as diffusers
        does.
        """
        folder = Path(folder)
        self.model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder.with_name(TOKENIZER))
        (folder / CONFIG_NAME).unlink(missing_ok=True)  # an earlier pipeline's


def text_encoder_of(pipeline: DiffusionPipeline) -> TextEncoder | None:
    """Return the text encoder of a pipeline, ours or that of a pipeline of diffusers.

    Raises:
        ValueError: if the pipeline has several, or one that cannot be used.
    """
    text_encoder = getattr(pipeline, "text_encoder", None)
    if getattr(pipeline, "text_encoder_2", None) is not None:
        raise ValueError(
            f"a {type(pipeline).__name__} has several text encoders; pass text_encoder=None, and "
            "prompt_embeds in each call"
        )
    if text_encoder is None or isinstance(text_encoder, TextEncoder):
        return text_encoder
    return PassedTextEncoder(text_encoder, getattr(pipeline, "tokenizer", None))

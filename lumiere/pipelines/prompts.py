"""Checks and encodes prompts: sentences, or their text states, become one row per generated
video.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lumiere.pipelines.argument_checks import check_text_encoder
from lumiere.pipelines.call_warnings import are_notes_logged
from lumiere.plurals import counted
from lumiere.text import TextEncoder, lost_words

logger = logging.getLogger(__name__)


class TextStates(NamedTuple):
    """The output of a text encoder.

    Attributes:
        embeds: (b, n, d).
        mask: (b, n), 1 = attend.
    """

    embeds: Tensor
    mask: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> TextStates:
        """Move the states to a device, and convert the embeds to `dtype`."""
        return TextStates(self.embeds.to(device, dtype), self.mask.to(device))


@dataclass(frozen=True)
class Prompts:
    """Positive and negative prompts, one entry per prompt; either kind may be sentences or text
    states.

    Attributes:
        positive: what to see.
        negative: what to avoid; None if guidance is off, because then no negative prompt needs
            encoding.
    """

    positive: list[str] | TextStates
    negative: list[str] | TextStates | None

    def __len__(self) -> int:
        return _count(self.positive)

    def encode(
        self, text_encoder: TextEncoder | None, per_prompt: int
    ) -> tuple[TextStates, TextStates]:
        """Encode all sentences in one go, and repeat each prompt's states for its videos.

        Args:
            text_encoder: required if there are sentences.
            per_prompt: videos per prompt; the videos of one prompt are adjacent.

        Returns:
            Positive and negative states, padded to the same n. Without negatives, both are the
            positive states.
        """
        kinds = [self.positive, self.positive if self.negative is None else self.negative]
        sentences = [entry for kind in kinds if isinstance(kind, list) for entry in kind]
        if sentences:
            check_text_encoder(text_encoder)
            assert text_encoder is not None
            encoded = TextStates(*text_encoder.encode(sentences))
            _warn_of_lost_words(sentences, text_encoder)
        states: list[TextStates] = []
        first = 0
        for kind in kinds:
            if isinstance(kind, list):
                end = first + len(kind)
                states.append(TextStates(encoded.embeds[first:end], encoded.mask[first:end]))
                first = end
            else:
                states.append(kind)
        longest = max(entry.embeds.shape[1] for entry in states)
        positive, negative = (_repeat(entry, longest, per_prompt) for entry in states)
        return positive, negative


def _warn_of_lost_words(sentences: list[str], text_encoder: TextEncoder) -> None:
    """Log what the text encoder does not read, as pipelines of diffusers do."""
    if not are_notes_logged() or not isinstance(text_encoder, TextEncoder):
        return
    for note in lost_words.notes(lost_words.find_losses(sentences, text_encoder), text_encoder):
        logger.warning(note)


def read_prompts(
    prompt: Any,
    negative_prompt: Any = None,
    prompt_embeds: Any = None,
    negative_prompt_embeds: Any = None,
    prompt_attention_mask: Any = None,
    negative_prompt_attention_mask: Any = None,
    *,
    guided: bool = True,
    has_encoder: bool = True,
    text_dim: int | None = None,
) -> Prompts:
    """Check the prompts of a call; the default negative prompt is the empty sentence.

    Args:
        prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, prompt_attention_mask,
        negative_prompt_attention_mask: as in `LumierePipeline.__call__`.
        guided: whether guidance needs negative prompts.
        has_encoder: whether sentences can be encoded.
        text_dim: d of the embeds; None if unknown.

    Raises:
        ValueError: if prompts cannot be used; the message says how to fix them.
    """
    if prompt is None and prompt_embeds is None:
        raise ValueError("prompt or prompt_embeds: neither is given; pass one of the two")
    if prompt is not None and prompt_embeds is not None:
        raise ValueError("prompt or prompt_embeds: both are given; pass one of the two")
    if negative_prompt is not None and negative_prompt_embeds is not None:
        raise ValueError(
            "negative_prompt or negative_prompt_embeds: both are given; pass one of the two"
        )
    positive: list[str] | TextStates
    if prompt_embeds is None:
        _check_no_mask(prompt_attention_mask, "prompt")
        positive = read_prompt(prompt)
    else:
        positive = _read_embeds(prompt_embeds, prompt_attention_mask, "prompt", text_dim)
    num_prompts = _count(positive)

    negative: list[str] | TextStates | None
    if negative_prompt_embeds is not None:
        states = _read_embeds(
            negative_prompt_embeds, negative_prompt_attention_mask, "negative_prompt", text_dim
        )
        _check_count(len(states.embeds), num_prompts, "negative_prompt_embeds")
        negative = TextStates(
            states.embeds.expand(num_prompts, -1, -1), states.mask.expand(num_prompts, -1)
        )
    else:
        _check_no_mask(negative_prompt_attention_mask, "negative_prompt")
        negative = read_negatives(negative_prompt, num_prompts)
        if prompt_embeds is not None and not guided:
            negative = None
    if not has_encoder:
        _check_needs_no_encoder(positive, negative)
    return Prompts(positive, negative)


def text_dim(config: Mapping[str, Any]) -> int | None:
    """Return how wide a T2I's text states are; None if its U-Net's config does not say."""
    dim = config.get("encoder_hid_dim") or config.get("cross_attention_dim")
    return dim if isinstance(dim, int) else None


def read_prompt(prompt: Any) -> list[str]:
    """Return one or more sentences as a list; raise ValueError if there is none, or an empty
    one.
    """
    prompts = _sentences(prompt, "prompt")
    if not prompts or not all(entry.strip() for entry in prompts):
        raise ValueError("prompt is empty; describe the video in a sentence")
    return prompts


def has_negative_prompt(negative_prompt: Any, negative_embeds: Any = None) -> bool:
    """Return whether sentences or text states name something to avoid; the empty sentence does
    not.
    """
    if negative_embeds is not None:
        return True
    if negative_prompt is None:
        return False
    return any(entry.strip() for entry in _sentences(negative_prompt, "negative_prompt"))


def read_negatives(negative_prompt: Any, num_prompts: int) -> list[str]:
    """Return the sentence to move away from for each prompt; by default the empty one.

    Raises:
        ValueError: if there is neither one sentence nor one per prompt.
    """
    negatives = _sentences("" if negative_prompt is None else negative_prompt, "negative_prompt")
    _check_count(len(negatives), num_prompts, "negative_prompt")
    return negatives * (num_prompts // len(negatives))


def _count(kind: list[str] | TextStates) -> int:
    return len(kind) if isinstance(kind, list) else len(kind.embeds)


def _check_count(count: int, num_prompts: int, name: str) -> None:
    if count not in (1, num_prompts):
        raise ValueError(
            f"{name} has length {count} for {counted(num_prompts, 'prompt')}; "
            "pass one for all, or one per prompt"
        )


def _check_needs_no_encoder(
    positive: list[str] | TextStates, negative: list[str] | TextStates | None
) -> None:
    if isinstance(positive, list):
        raise ValueError(
            "this pipeline has no text_encoder; set pipe.text_encoder, or pass prompt_embeds"
        )
    if isinstance(negative, list):
        raise ValueError(
            "this pipeline has no text_encoder; pass negative_prompt_embeds too, "
            "or set guidance_scale to 1"
        )


def _sentences(value: Any, name: str) -> list[str]:
    # The order of a set is none, and a mapping would be read as its keys.
    is_list = isinstance(value, Iterable) and not isinstance(value, (str, Mapping, Set))
    entries = list(value) if is_list else [value]
    for entry in entries:
        if not isinstance(entry, str):
            raise ValueError(f"{name} has {entry!r} in it; expected a sentence, or a list of them")
    return entries


def _read_embeds(embeds: Any, mask: Any, name: str, text_dim: int | None) -> TextStates:
    """Check states and their mask; by default, states of zeros are padding (`TextEncoder.encode`)."""
    is_float = isinstance(embeds, Tensor) and embeds.is_floating_point()
    if not is_float or embeds.ndim != 3 or 0 in embeds.shape:
        raise ValueError(
            f"{name}_embeds: expected a tensor (b, n, d), float, as text_encoder.encode returns it"
        )
    if text_dim is not None and embeds.shape[2] != text_dim:
        raise ValueError(f"{name}_embeds is {embeds.shape[2]} wide; the model takes {text_dim}")
    if not bool(embeds.isfinite().all()):
        raise ValueError(f"{name}_embeds are not finite; encode the {name} again, in float32")
    mask = _attended(embeds) if mask is None else _read_mask(mask, embeds, name)
    return TextStates(embeds, mask)


def _read_mask(mask: Any, embeds: Tensor, name: str) -> Tensor:
    """Check the mask of states: 0 and 1, of any dtype, with something to attend to in each row."""
    if not isinstance(mask, Tensor) or mask.shape != embeds.shape[:2]:
        raise ValueError(
            f"{name}_attention_mask: expected a tensor {tuple(embeds.shape[:2])}, 1 = attend"
        )
    attended = mask == 1
    if not bool((attended | (mask == 0)).all()):
        raise ValueError(
            f"{name}_attention_mask has values from {float(mask.min()):g} to "
            f"{float(mask.max()):g}; expected 1 = attend and 0 = padding"
        )
    if not bool(attended.any(dim=1).all()):
        raise ValueError(f"{name}_attention_mask attends to nothing; set 1 for at least one state")
    return attended.long()


def _attended(embeds: Tensor) -> Tensor:
    """Return the mask (b, n) of the states that are not zero: text encoders write zeros where they
    pad. A sentence of zeros alone is no padding; it is attended to as it is.
    """
    attended = (embeds != 0).any(dim=2)
    attended |= ~attended.any(dim=1, keepdim=True)
    return attended.long()


def _check_no_mask(mask: Any, name: str) -> None:
    if mask is not None:
        raise ValueError(
            f"{name}_attention_mask belongs to {name}_embeds, which is not given; pass both or none"
        )


def _repeat(states: TextStates, num_tokens: int, per_prompt: int) -> TextStates:
    """Pad to n = num_tokens with masked positions, and repeat to one row per video."""
    padding = num_tokens - states.embeds.shape[1]
    embeds, mask = F.pad(states.embeds, (0, 0, 0, padding)), F.pad(states.mask, (0, padding))
    return TextStates(
        embeds.repeat_interleave(per_prompt, dim=0), mask.repeat_interleave(per_prompt, dim=0)
    )

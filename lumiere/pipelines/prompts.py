"""What users say, as sentences or as states that an encoder made of them, one row per generated video."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lumiere.text import TextEncoder

States = tuple[Tensor, Tensor]
"""(b, n, d) and what of it is to be attended to (b, n), 1 = attend."""


@dataclass(frozen=True)
class Prompts:
    """One entry per prompt; of each kind either sentences or their states.

    Attributes:
        positive: what to see.
        negative: what to move away from; None where nothing is needed, since there is no guidance.
    """

    positive: list[str] | States
    negative: list[str] | States | None

    def __len__(self) -> int:
        return len(self.positive) if isinstance(self.positive, list) else len(self.positive[0])

    def encode(self, text_encoder: TextEncoder | None, per_prompt: int) -> tuple[States, States]:
        """States of both, of the same n, each repeated for its videos; all sentences are encoded in one go."""
        kinds = [self.positive, self.positive if self.negative is None else self.negative]
        sentences = [entry for kind in kinds if isinstance(kind, list) for entry in kind]
        if sentences:
            assert text_encoder is not None
            embeds, mask = text_encoder.encode(sentences)
        states: list[States] = []
        taken = 0
        for kind in kinds:
            if isinstance(kind, list):
                kind, taken = (
                    (embeds[taken : taken + len(kind)], mask[taken : taken + len(kind)]),
                    taken + len(kind),
                )
            states.append(kind)
        longest = max(entry[0].shape[1] for entry in states)
        positive, negative = (_repeated(entry, longest, per_prompt) for entry in states)
        return positive, negative


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
    """Check what was said; each kind is sentences or embeds, and negatives are the empty sentence by default.

    Args:
        guided: whether negatives will be needed.
        has_encoder: whether sentences can be encoded.
        text_dim: d of the embeds, where it is known.

    Raises:
        ValueError: on what cannot be used, with the cure.
    """
    if (prompt is None) == (prompt_embeds is None):
        given = "neither is given" if prompt is None else "both are given"
        raise ValueError(f"prompt or prompt_embeds: {given}; pass one of the two")
    if negative_prompt is not None and negative_prompt_embeds is not None:
        raise ValueError(
            "negative_prompt or negative_prompt_embeds: both are given; pass one of the two"
        )
    positive: list[str] | States
    if prompt_embeds is None:
        _no_mask(prompt_attention_mask, "prompt")
        positive = read_prompt(prompt)
        num_prompts = len(positive)
    else:
        positive = _read_embeds(prompt_embeds, prompt_attention_mask, "prompt", text_dim)
        num_prompts = len(positive[0])
    negative: list[str] | States | None
    if negative_prompt_embeds is not None:
        states = _read_embeds(
            negative_prompt_embeds, negative_prompt_attention_mask, "negative_prompt", text_dim
        )
        _check_count(len(states[0]), num_prompts, "negative_prompt_embeds")
        negative = (states[0].expand(num_prompts, -1, -1), states[1].expand(num_prompts, -1))
    else:
        _no_mask(negative_prompt_attention_mask, "negative_prompt")
        negative = read_negatives(negative_prompt, num_prompts)
        if prompt_embeds is not None and not guided:
            negative = None
    if isinstance(positive, list) and not has_encoder:
        raise ValueError(
            "this pipeline has no text_encoder; set pipe.text_encoder, or pass prompt_embeds"
        )
    if isinstance(negative, list) and not has_encoder:
        raise ValueError(
            "this pipeline has no text_encoder; pass negative_prompt_embeds too, or set guidance_scale to 1"
        )
    return Prompts(positive, negative)


def text_dim(config: Mapping[str, Any]) -> int | None:
    """How wide a T2I's text states are, if its U-Net's config tells."""
    dim = config.get("encoder_hid_dim") or config.get("cross_attention_dim")
    return dim if isinstance(dim, int) else None


def read_prompt(prompt: Any) -> list[str]:
    """One or more sentences as a list; ValueError where there is none, or an empty one."""
    prompts = _sentences(prompt, "prompt")
    if not prompts or not all(entry.strip() for entry in prompts):
        raise ValueError("prompt is empty; describe the video in a sentence")
    return prompts


def read_negatives(negative_prompt: Any, num_prompts: int) -> list[str]:
    """One sentence per prompt to move away from, by default the empty one; ValueError on another number of them."""
    negatives = _sentences("" if negative_prompt is None else negative_prompt, "negative_prompt")
    _check_count(len(negatives), num_prompts, "negative_prompt")
    return negatives * (num_prompts // len(negatives))


def _check_count(count: int, num_prompts: int, name: str) -> None:
    if count not in (1, num_prompts):
        raise ValueError(
            f"{name} has {count} entries for {num_prompts} prompts; pass one for all, or one per prompt"
        )


def _sentences(value: Any, name: str) -> list[str]:
    entries = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    for entry in entries:
        if not isinstance(entry, str):
            raise ValueError(f"{name} has {entry!r} in it; expected a sentence, or a list of them")
    return entries


def _read_embeds(embeds: Any, mask: Any, name: str, text_dim: int | None) -> States:
    """Checked states and their mask, by default all ones."""
    if (
        not isinstance(embeds, Tensor)
        or embeds.ndim != 3
        or not embeds.is_floating_point()
        or 0 in embeds.shape
    ):
        raise ValueError(
            f"{name}_embeds: expected a tensor (b, n, d), float, as text_encoder.encode returns it"
        )
    if text_dim is not None and embeds.shape[2] != text_dim:
        raise ValueError(f"{name}_embeds is {embeds.shape[2]} wide; the model takes {text_dim}")
    if mask is None:
        return embeds, torch.ones(embeds.shape[:2], dtype=torch.int64, device=embeds.device)
    if not isinstance(mask, Tensor) or mask.shape != embeds.shape[:2]:
        raise ValueError(
            f"{name}_attention_mask: expected a tensor {tuple(embeds.shape[:2])}, 1 = attend"
        )
    return embeds, mask.long()


def _no_mask(mask: Any, name: str) -> None:
    if mask is not None:
        raise ValueError(
            f"{name}_attention_mask belongs to {name}_embeds, which is not given; pass both or none"
        )


def _repeated(states: States, num_tokens: int, per_prompt: int) -> States:
    """Padded to n = num_tokens, which nothing attends to, and one row per video."""
    embeds, mask = states
    padding = num_tokens - embeds.shape[1]
    embeds, mask = F.pad(embeds, (0, 0, 0, padding)), F.pad(mask, (0, padding))
    return embeds.repeat_interleave(per_prompt, dim=0), mask.repeat_interleave(per_prompt, dim=0)

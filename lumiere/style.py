"""Stylised generation (paper, section 4.1) by blending weights: alpha W_style + (1 - alpha) W_orig.

Only the spatial, text-to-image weights are blended; temporal weights stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

# Torch is imported for types only, because config.py imports this module without torch.
if TYPE_CHECKING:
    from torch import Tensor

# diffusers' names of adapters; files of pipelines have the prefix, files of networks do not.
LORA_WEIGHT = re.compile(r"(?:unet\.)?(.+)\.lora_([AB])\.weight")
STYLE_NAME = r"[A-Za-z0-9_-]+"  # safe in file names and on the command line


def blend_file(style: str, alpha: float) -> Path:
    """Return a blend's path in a folder of blends: `line-art/0.5.safetensors`; alpha 1.0 is the
    style.
    """
    return Path(style) / f"{float(alpha)!r}.safetensors"


def alpha_of(path: Path) -> float:
    """Read the alpha from the name of a file that `blend_file` named.

    Raises:
        ValueError: if the file has another kind of name.
    """
    try:
        alpha = float(path.stem)
    except ValueError:
        alpha = -1.0
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"{path}: not a blend; expected a name such as {blend_file(path.stem, 0.5)}"
        )
    return alpha


def blend_style(
    orig_state: Mapping[str, Tensor], style_state: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """Interpolate two sets of T2I weights.

    Args:
        orig_state, style_state: state dicts with the same keys, shapes and dtypes.
        alpha: 0 is the original, 1 the style; exact at both ends. The paper picks 0.5 to 1 by hand
            per style.

    Returns:
        New tensors in the original dtype, computed in float32; integer buffers are the original's
        below alpha 1.

    Raises:
        ValueError: if alpha is outside [0, 1], or keys, shapes or dtypes differ; the message names
            the key.
    """
    if not (isinstance(alpha, Real) and 0 <= alpha <= 1):
        raise ValueError(f"alpha {alpha}; allowed: 0 to 1")
    for key in sorted(set(orig_state) ^ set(style_state)):
        side = "style" if key in orig_state else "original"
        raise ValueError(f"{key}: missing from the {side} weights")
    return {key: _blend(key, orig, style_state[key], alpha) for key, orig in orig_state.items()}


def _blend(key: str, orig: Tensor, style: Tensor, alpha: float) -> Tensor:
    if orig.shape != style.shape or orig.dtype != style.dtype:
        raise ValueError(
            f"{key}: {tuple(orig.shape)} {orig.dtype} in the original, "
            f"{tuple(style.shape)} {style.dtype} in the style"
        )
    if alpha == 1:
        return style.clone()
    if alpha == 0 or not orig.is_floating_point():
        return orig.clone()
    return (alpha * style.float() + (1 - alpha) * orig.float()).to(orig.dtype)


def is_lora(weights: Mapping[str, Tensor]) -> bool:
    """Return whether these are low-rank adapters rather than the weights of a network."""
    return any(LORA_WEIGHT.fullmatch(key) for key in weights)


def merge_lora(orig_state: Mapping[str, Tensor], lora: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Merge low-rank adapters of scale 1 into weights: W + B A for each W (Hu et al. 2021).

    Args:
        orig_state: state dict of the T2I.
        lora: `<layer>.lora_A.weight` (r, in, ...) and `<layer>.lora_B.weight` (out, r, ...) of
            linear layers and convolutions, with or without the prefix `unet.`.

    Returns:
        All weights. Merged ones are new tensors in the original dtype, summed in float32; the
            others are the original tensors.

    Raises:
        ValueError: if these are other adapters, or adapters of another network; the message names
            the key.
    """
    factors: dict[str, dict[str, Tensor]] = {}
    for key, value in lora.items():
        match = LORA_WEIGHT.fullmatch(key)
        if match is None:
            raise ValueError(
                f"{key}: not of a plain LoRA; "
                "allowed: <layer>.lora_A.weight and <layer>.lora_B.weight"
            )
        factors.setdefault(f"{match[1]}.weight", {})[match[2]] = value.float().flatten(1)
    style = dict(orig_state)
    for key, parts in factors.items():
        if key not in orig_state:
            raise ValueError(f"{key}: missing from the original weights")
        if len(parts) < 2:
            raise ValueError(
                f"{key}: its adapter has lora_{min(parts)} only; expected lora_A and lora_B"
            )
        orig, a, b = orig_state[key], parts["A"], parts["B"]  # a (r, in kh kw), b (out, r)
        if a.shape[0] != b.shape[1] or (b.shape[0], a.shape[1]) != orig.flatten(1).shape:
            raise ValueError(
                f"{key}: {tuple(orig.shape)} in the original; "
                f"{tuple(b.shape)} times {tuple(a.shape)} do not fit"
            )
        style[key] = (orig.float() + (b @ a).view(orig.shape).to(orig.device)).to(orig.dtype)
    return style

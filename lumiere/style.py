"""Stylised generation by blending weights (paper, section 4.1): W = alpha W_style + (1 - alpha) W_orig.

Only the spatial, text-to-image weights are blended; temporal weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor  # not at run time: reading params takes the names from here, and needs no torch

STYLE_NAME = r"[A-Za-z0-9_-]+"  # a style is a file, a folder and a word on the command line


def blend_file(style: str, alpha: float) -> Path:
    """Where a style's blend lies in a folder of blends: `line-art/0.5.safetensors`; the style itself is alpha 1.0."""
    return Path(style) / f"{float(alpha)!r}.safetensors"


def alpha_of(path: Path) -> float:
    """The alpha of a file named by `blend_file`.

    Raises:
        ValueError: where it is not.
    """
    try:
        alpha = float(path.stem)
    except ValueError:
        alpha = -1.0
    if not 0 <= alpha <= 1:
        raise ValueError(f"{path}: not a blend; expected a name such as {blend_file(path.stem, 0.5)}")
    return alpha


def blend_style(orig_state: Mapping[str, Tensor], style_state: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Interpolate two sets of T2I weights.

    Args:
        orig_state, style_state: state dicts with the same keys, shapes and dtypes.
        alpha: 0 is the original, 1 the style; exact at both ends. The paper picks 0.5 to 1 by hand per style.

    Returns:
        New tensors in the original dtype, computed in float32; integer buffers are the original's below alpha 1.

    Raises:
        ValueError: when alpha is outside [0, 1], or keys, shapes or dtypes differ, naming the key.
    """
    if not (isinstance(alpha, Real) and 0 <= alpha <= 1):
        raise ValueError(f"alpha {alpha}; allowed: 0 to 1")
    for key in sorted(set(orig_state) ^ set(style_state)):
        side = "style" if key in orig_state else "original"
        raise ValueError(f"{key}: missing from the {side} weights")
    blended = {}
    for key, orig in orig_state.items():
        style = style_state[key]
        if orig.shape != style.shape or orig.dtype != style.dtype:
            raise ValueError(
                f"{key}: {tuple(orig.shape)} {orig.dtype} in the original, "
                f"{tuple(style.shape)} {style.dtype} in the style"
            )
        if alpha == 1:
            blended[key] = style.clone()
        elif alpha == 0 or not orig.is_floating_point():
            blended[key] = orig.clone()
        else:
            blended[key] = (alpha * style.float() + (1 - alpha) * orig.float()).to(orig.dtype)
    return blended

"""Stylised generation by blending weights (paper, section 4.1): W = alpha W_style + (1 - alpha) W_orig.

Only the spatial, text-to-image weights are blended; temporal weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def blend_name(style: str, alpha: float) -> str:
    """The name of a style's blend, such as `line-art-050` for alpha 0.5."""
    return f"{style}-{round(alpha * 100):03d}"


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
    if not 0 <= alpha <= 1:
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

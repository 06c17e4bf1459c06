"""Checks arguments; each check raises ValueError with the name, the value and the allowed
values.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch


def check_range(least: float, most: float | None = None, **values: Any) -> None:
    """Raise ValueError unless each value is a finite number, at least `least`, at most `most`."""
    _check_numbers(Real, "", least, most, values)


def check_whole(least: int, most: int | None = None, **values: Any) -> None:
    """Raise ValueError unless each value is a whole number from least to most."""
    _check_numbers(Integral, ", whole numbers", least, most, values)


def check_whole_or_none(**values: Any) -> None:
    """Raise ValueError unless each value is None or a whole number above zero."""
    check_whole(1, **{name: value for name, value in values.items() if value is not None})


def check_interval(least: float, most: float, **values: Any) -> None:
    """Raise ValueError unless each value is a pair (low, high) with least ≤ low ≤ high ≤ most."""
    for name, value in values.items():
        allowed = f"{name} is {value!r}; allowed: two numbers, {least:g} <= low <= high <= {most:g}"
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
            raise ValueError(allowed)
        if not all(isinstance(end, Real) for end in value):
            raise ValueError(allowed)
        if not least <= value[0] <= value[1] <= most:
            raise ValueError(allowed)


def check_choice(allowed: Sequence[str], **values: Any) -> None:
    """Raise ValueError unless each value is one of the allowed words."""
    for name, value in values.items():
        if not (isinstance(value, str) and value in allowed):
            raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")


NO_GUIDANCE = {
    "guidance_rescale": 0, "guidance_interval": (0, 1), "guidance_eta": 1, "guidance_threshold": 0,
    "guidance_momentum": 0,
}  # fmt: skip


def read_share(default: float, **share: float | None) -> float:
    """Return a share, or its default where it is None.

    Args:
        default: 0 to 1.
        share: the one share, by its name.

    Raises:
        ValueError: if it is not from 0 to 1.
    """
    ((name, value),) = share.items()
    if value is None:
        return default
    check_range(0, 1, **{name: value})
    return value


def check_unguided(may_be_guided: bool, **settings: Any) -> None:
    """Raise ValueError if a call without guidance is given settings of it; None where not given.

    Values that change nothing (`NO_GUIDANCE`) are allowed.
    """
    if may_be_guided:
        return
    for name, value in settings.items():
        comparable = tuple(value) if isinstance(value, Sequence) else value
        if value is not None and comparable != NO_GUIDANCE[name]:
            check_left_out("this call has no guidance (guidance_scale above 1)", **{name: value})


def check_left_out(reason: str, **settings: Any) -> None:
    """Raise ValueError if settings are given that a call would not read; None where not given."""
    for name, value in settings.items():
        if value is not None:
            raise ValueError(f"{name} is {value!r}, but {reason}; leave {name} out")


def check_generator(generator: Any) -> None:
    """Raise ValueError unless `generator` is a torch.Generator, a list of them or None."""
    if generator is None:
        return
    generators = generator if isinstance(generator, (list, tuple)) else [generator]
    if not all(isinstance(entry, torch.Generator) for entry in generators):
        raise ValueError(
            f"generator is {generator!r}; allowed: torch.Generator().manual_seed(n), "
            "or one per video"
        )


def check_network(network: object, name: str) -> None:
    """Raise ValueError unless a component is a Space-Time U-Net, or wraps one."""
    if network is None:
        raise ValueError(
            f"{name} is None; expected a SpaceTimeUNet, such as SpaceTimeUNet.from_unet2d(unet)"
        )
    if not hasattr(network, "temporal_settings"):
        raise ValueError(
            f"{name} is a {type(network).__name__}; expected a SpaceTimeUNet: inflate an image U-Net "
            "with SpaceTimeUNet.from_unet2d(unet)"
        )


def check_text_encoder(text_encoder: object) -> None:
    """Raise ValueError unless a component is a text encoder of `lumiere.text`."""
    if not hasattr(text_encoder, "encode"):
        raise ValueError(
            f"text_encoder is a {type(text_encoder).__name__}; expected one of lumiere.text, such as "
            "load_text_encoder('diffusers:FOLDER'), where FOLDER is a pipeline's, with text_encoder/ "
            "and tokenizer/"
        )


def check_latents(latents: Any, shape: Sequence[int], **noise: Any) -> None:
    """Raise ValueError unless `latents` are None, or noise of a shape that a call can start from.

    Args:
        latents: from the user.
        shape: (b, c, t, h, w), what the call needs.
        noise: settings of the noise, which would not change latents; None where not given.
    """
    if latents is None:
        return
    if not isinstance(latents, torch.Tensor) or not latents.is_floating_point():
        raise ValueError(f"latents is a {type(latents).__name__}; expected a float tensor")
    if tuple(latents.shape) != tuple(shape):
        raise ValueError(f"latents has shape {tuple(latents.shape)}; expected {tuple(shape)}")
    if not bool(latents.isfinite().all()):
        raise ValueError("latents are not finite; pass standard normal noise")
    for name, value in noise.items():
        if value is not None:
            raise ValueError(
                f"{name} is {value!r}, but latents are the noise already; pass one of the two"
            )


def _check_numbers(
    kind: type, kind_name: str, least: float, most: float | None, values: dict[str, Any]
) -> None:
    largest = sys.float_info.max if most is None else most
    for name, value in values.items():
        if isinstance(value, kind) and least <= value <= largest:  # type: ignore[operator]
            continue
        if most is not None:
            allowed = f"{least:g} to {most:g}"
        elif isinstance(value, Real) and value == math.inf:
            allowed = f"at least {least:g} and finite"
        else:
            allowed = f"at least {least:g}"
        raise ValueError(f"{name} is {value!r}; allowed: {allowed}{kind_name}")

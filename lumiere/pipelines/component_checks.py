"""Checks whether the networks of a pipeline fit together."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SchedulerMixin

from lumiere.diffusion.schedulers import (
    check_prediction_type,
    has_continuous_timesteps,
    has_flow_sigmas,
)
from lumiere.models import SpaceTimeUNet
from lumiere.pipelines.prompts import text_dim


def check_generates(unet: SpaceTimeUNet, scheduler: SchedulerMixin | None) -> None:
    """Raise ValueError unless the network predicts as many channels as it takes, and there is a
    scheduler.
    """
    config = unet.unet.config
    if config.out_channels < config.in_channels:
        raise ValueError(
            f"unet takes {config.in_channels} channels and predicts {config.out_channels}, as networks "
            "of inpainting and of super-resolution do; pass one that predicts all channels that it "
            "takes, and a network of super-resolution as ssr_unet"
        )
    check_is_scheduler(scheduler)


def check_is_scheduler(scheduler: SchedulerMixin | None, name: str = "scheduler") -> None:
    """Raise ValueError if a scheduler, a component of this name, is None."""
    if scheduler is None:
        raise ValueError(f"{name} is None; pass a scheduler of the network's prediction type")


def check_scheduler(scheduler: SchedulerMixin, expected: str, name: str = "scheduler") -> None:
    """Raise ValueError unless a pipeline's scheduler expects what the network was trained to
    predict (`check_prediction_type`), at the noise levels of diffusion.

    A scheduler of diffusion with use_flow_sigmas mixes video and noise as flow matching does, and
    one with continuous timesteps numbers noise levels as EDM does. The network has seen neither; it
    would give another video without an error.

    Args:
        scheduler: of diffusers.
        expected: the network's prediction type.
        name: of the component, for the message.
    """
    check_is_scheduler(scheduler, name)
    check_prediction_type(scheduler, expected, name)
    kind = type(scheduler).__name__
    if has_flow_sigmas(scheduler):
        setting, cure = "use_flow_sigmas", "use_flow_sigmas=False"
    elif has_continuous_timesteps(scheduler):
        setting, cure = "continuous timesteps", "timestep_type='discrete'"
    else:
        return
    raise ValueError(
        f"{name} is a {kind} with {setting}, but the model was trained with diffusion's noise; make "
        f"it with {kind}.from_config({name}.config, {cure})"
    )


def check_guide(unet: SpaceTimeUNet, guide_unet: SpaceTimeUNet) -> None:
    """Raise ValueError unless the guide takes the inputs of the base network."""
    for name, value, expected in (
        ("channels", guide_unet.in_channels, unet.in_channels),
        (
            "conditioning channels",
            guide_unet.config.conditioning_channels,
            unet.config.conditioning_channels,
        ),
        ("numbers per text token", text_dim(guide_unet.unet.config), text_dim(unet.unet.config)),
    ):
        if value != expected:
            raise ValueError(f"guide_unet takes {value} {name}, unet {expected}; expected the same")


def architecture(unet: SpaceTimeUNet) -> tuple[Any, ...]:
    """Return what two networks must share to take each other's place."""
    return unet.temporal_settings(), [
        (key, value.shape) for key, value in unet.state_dict().items()
    ]


def have_equal_image_models(one: SpaceTimeUNet, other: SpaceTimeUNet) -> bool:
    """Return whether two networks have the same weights in their image models."""
    weights = other.unet.state_dict()
    return all(
        torch.equal(value, weights[key].to(value.device))
        for key, value in one.unet.state_dict().items()
    )

"""The inputs that an image network needs for spatial super-resolution (paper, section 3.2)."""

from __future__ import annotations

from diffusers import UNet2DConditionModel


def check_super_resolution(unet2d: UNet2DConditionModel, name: str = "unet") -> None:
    """Check that a network takes the inputs of super-resolution: <x_t, low>, a noise level, and no
    text.

    Args:
        unet2d: the image network.
        name: the network's name in the error.

    Raises:
        ValueError: if it does not; the message says what is expected.
    """
    config = unet2d.config
    if config.in_channels != 2 * config.out_channels or unet2d.class_embedding is None:
        raise ValueError(
            f"{name} takes {config.in_channels} channels, gives {config.out_channels} and has class_embed_type "
            f"{config.class_embed_type!r}; a super-resolution network takes twice what it gives, and "
            "the noise level by class_embed_type 'timestep'"
        )
    blocks = (*config.down_block_types, config.mid_block_type or "", *config.up_block_types)
    if any("CrossAttn" in block for block in blocks):
        raise ValueError(
            f"{name} attends to text; super-resolution has no text: use a network without attention to text"
        )

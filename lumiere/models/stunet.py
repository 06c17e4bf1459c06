"""The Space-Time U-Net: a frozen text-to-image U-Net, inflated (paper, section 3.1).

Every level but the coarsest gets a convolutional inflation block; the coarsest gets temporal
attention. A temporal down- or upsampling layer follows each spatial one. Before training, the
network computes the same as its image model on a video whose frames are all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import AttentionMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from lumiere.models.adapters import SpaceTimeAdapters
from lumiere.models.blocks import BlockLayers, image_blocks
from lumiere.models.conditions import embed_conditions
from lumiere.models.inflation import (
    check_supported,
    make_lean,
    run_down_block,
    run_mid_block,
    run_up_block,
    size_factor,
)
from lumiere.models.switches import SpaceTimeSwitches, copy_switches
from lumiere.models.temporal import (
    AttentionInflationBlock,
    ConvInflationBlock,
    TemporalDownsample,
    TemporalUpsample,
)
from lumiere.models.weights import CONFIG_FILE, SpaceTimeWeights

RESAMPLING_INITS = ("nearest", "he")


@dataclass
class SpaceTimeUNetOutput(BaseOutput):
    """`sample` (b, c, t, h, w): the network's output, in the T2I's prediction type."""

    sample: Tensor


# ModelMixin is a base class here too, because diffusers looks for it in the module of a component's
# class when it loads a pipeline.
class SpaceTimeUNet(
    SpaceTimeSwitches, SpaceTimeAdapters, SpaceTimeWeights, AttentionMixin, ModelMixin, ConfigMixin
):
    """A text-to-image U-Net inflated to video. Build it with `from_unet2d` or `from_pretrained`."""

    config_name = CONFIG_FILE
    _supports_gradient_checkpointing = True
    _repeated_blocks: ClassVar[list[str]] = ["BasicTransformerBlock", "TemporalAttention"]

    @register_to_config
    def __init__(
        self,
        unet2d_config: dict[str, Any],
        conditioning_channels: int = 0,
        temporal_resampling: bool | Sequence[bool] = True,
        resampling_init: str = "nearest",
        mid_attention_layers: int = 3,
        temporal_head_dim: int = 32,
    ) -> None:
        """
        Args:
            unet2d_config: the config of the UNet2DConditionModel inside.
            conditioning_channels: number of channels of (C, M), which are appended to the input; 4
                in pixel space.
            temporal_resampling: whether time is halved whenever space is: one value, or one per
                spatial halving.
            resampling_init: "nearest" (the paper's) or "he" (its ablation).
            mid_attention_layers: temporal attention layers in the mid block; the rest of the
                coarsest level has one.
            temporal_head_dim: width of a temporal attention head.
        """
        super().__init__()
        if resampling_init not in RESAMPLING_INITS:
            raise ValueError(
                f"resampling_init {resampling_init!r}; allowed: {', '.join(RESAMPLING_INITS)}"
            )
        if conditioning_channels < 0:
            raise ValueError(f"conditioning_channels {conditioning_channels}; allowed: 0 or more")
        if mid_attention_layers < 1 or temporal_head_dim < 2:
            raise ValueError(
                f"mid_attention_layers {mid_attention_layers}, temporal_head_dim {temporal_head_dim}; "
                "allowed: at least 1 layer, heads at least 2 wide"
            )
        self.unet = UNet2DConditionModel.from_config(unet2d_config)
        check_supported(self.unet)
        make_lean(self.unet)
        self.unet.requires_grad_(False)
        self.gradient_checkpointing = False

        down, mid, up = image_blocks(self.unet)
        self._size_factor = size_factor(self.unet)
        self._resampled = _spread(temporal_resampling, [bool(block.resamplers) for block in down])
        # Each level but the coarsest gets a convolutional block; the coarsest gets attention.
        self.down_inflations = nn.ModuleList(
            [
                *(ConvInflationBlock(block.out_channels) for block in down[:-1]),
                AttentionInflationBlock(down[-1].out_channels, 1, temporal_head_dim),
            ]
        )
        self.up_inflations = nn.ModuleList(
            [
                AttentionInflationBlock(up[0].out_channels, 1, temporal_head_dim),
                *(ConvInflationBlock(block.out_channels) for block in up[1:]),
            ]
        )
        self.mid_inflation = None
        if mid is not None:
            self.mid_inflation = AttentionInflationBlock(
                mid.out_channels, mid_attention_layers, temporal_head_dim
            )
        # A temporal resampler follows the spatial one of the same block; the up path mirrors the
        # down path.
        self.temporal_downsamplers = nn.ModuleDict()
        for index in self._resampled:
            channels = down[index].out_channels
            self.temporal_downsamplers[str(index)] = TemporalDownsample(channels, resampling_init)
        self.temporal_upsamplers = nn.ModuleDict()
        for index in self._resampled:
            mirrored = len(down) - 2 - index
            channels = up[mirrored].out_channels
            self.temporal_upsamplers[str(mirrored)] = TemporalUpsample(channels, resampling_init)
        self.conv_in_conditioning = None
        if conditioning_channels:
            conv_in = self.unet.conv_in
            self.conv_in_conditioning = nn.Conv2d(
                conditioning_channels,
                conv_in.out_channels,
                conv_in.kernel_size,
                padding=conv_in.padding,
                bias=False,
            )
            nn.init.zeros_(self.conv_in_conditioning.weight)
        convert_conv2d_weight_memory_format(self, torch.channels_last)

    # --- building ---------------------------------------------------------------------------------

    @classmethod
    def from_unet2d(
        cls,
        unet2d: UNet2DConditionModel,
        conditioning_channels: int = 0,
        temporal_resampling: bool | Sequence[bool] = True,
        **settings: Any,
    ) -> SpaceTimeUNet:
        """Inflate a text-to-image U-Net. The weights are copied; the argument does not change.

        Args:
            unet2d: any diffusers UNet2DConditionModel.
            conditioning_channels, temporal_resampling, settings: as in `__init__`.

        Raises:
            ValueError: if `unet2d` is not a UNet2DConditionModel, cannot be inflated, or has
                adapters.
        """
        if not isinstance(unet2d, UNet2DConditionModel):
            raise ValueError(
                f"unet2d is a {type(unet2d).__name__}; expected a diffusers UNet2DConditionModel"
            )
        config = {key: value for key, value in unet2d.config.items() if not key.startswith("_")}
        # Pass values by keyword: diffusers mistakes positional values for defaults, and drops them
        # in `from_config`.
        model = cls(
            unet2d_config=config,
            conditioning_channels=conditioning_channels,
            temporal_resampling=temporal_resampling,
            **settings,
        )
        odd = sorted(model.unet.state_dict().keys() ^ unet2d.state_dict().keys())
        if odd:
            raise ValueError(
                f"the layers of unet2d and of its config differ, for example in {odd[0]!r}; fuse or unload "
                "adapters, or load the U-Net again if fuse_qkv_projections() was called, before inflation"
            )
        model.unet.load_state_dict(unet2d.state_dict())
        copy_switches(unet2d, model.unet)
        model.train(unet2d.training)
        return nn.Module.to(model, dtype=unet2d.dtype, device=unet2d.device)

    def with_conditioning(self, conditioning_channels: int) -> SpaceTimeUNet:
        """Return a copy of the network with (C, M) added to its input.

        The added convolution starts at zero, so the output does not change.
        """
        config = {key: value for key, value in self.config.items() if not key.startswith("_")}
        grown = type(self)(**(config | {"conditioning_channels": conditioning_channels}))
        grown.load_state_dict(self.state_dict(), strict=False)
        grown.train(self.training)
        return nn.Module.to(grown, dtype=self.dtype, device=self.device)

    @property
    def in_channels(self) -> int:
        """The channels of the noisy video."""
        return self.unet.config.in_channels

    @property
    def total_channels(self) -> int:
        """The channels of the whole input: noisy video and conditioning."""
        return self.in_channels + self.config.conditioning_channels

    def temporal_settings(self) -> dict[str, Any]:
        """Return the settings that two networks must share to exchange temporal weights, with one
        value of temporal resampling per spatial halving.
        """
        down, _, _ = image_blocks(self.unet)
        halvings = [index for index, block in enumerate(down) if block.resamplers]
        has_mid_block = self.mid_inflation is not None
        return {
            "block_out_channels": list(self.unet.config.block_out_channels),
            "in_channels": self.in_channels,
            "conditioning_channels": self.config.conditioning_channels,
            "temporal_resampling": [index in self._resampled for index in halvings],
            "mid_attention_layers": self.config.mid_attention_layers if has_mid_block else 0,
            "temporal_head_dim": self.config.temporal_head_dim,
        }

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute layers in the backward pass; that takes less memory and more time, for the same
        gradients.
        """
        self.gradient_checkpointing = enabled

    def enable_gradient_checkpointing(self, *_: Any) -> None:
        """Switch gradient checkpointing on, as in diffusers."""
        self.set_gradient_checkpointing(True)

    def disable_gradient_checkpointing(self) -> None:
        """Switch gradient checkpointing off, as in diffusers."""
        self.set_gradient_checkpointing(False)

    def blocks(self) -> tuple[list[BlockLayers], BlockLayers | None, list[BlockLayers]]:
        """Return the down blocks, the mid block and the up blocks, each with its temporal
        layers.
        """
        unet = self.unet
        down = []
        for index, block in enumerate(unet.down_blocks):
            resampler = _get(self.temporal_downsamplers, index)
            down.append(BlockLayers.of(block, self.down_inflations[index], resampler))
        mid = None
        if unet.mid_block is not None:
            mid = BlockLayers.of(unet.mid_block, self.mid_inflation)
        up = []
        for index, block in enumerate(unet.up_blocks):
            resampler = _get(self.temporal_upsamplers, index)
            up.append(BlockLayers.of(block, self.up_inflations[index], resampler))
        return down, mid, up

    # --- forward ----------------------------------------------------------------------------------

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
        timestep_cond: Tensor | None = None,
    ) -> SpaceTimeUNetOutput | tuple[Tensor]:
        """Predict for a whole clip at once, in the prediction type of the T2I.

        Args:
            sample: (b, c, t, h, w), the noisy video, followed on the channel axis by C and M if the
                model takes conditioning. Any t >= 1.
            timestep: noise index, an int, 0-d, or (b,).
            encoder_hidden_states: text states (b, n, d), once per clip.
            encoder_attention_mask: (b, n), 1 = attend.
            class_labels, added_cond_kwargs: as the T2I takes them, once per clip.
            return_dict: False for a plain tuple.
            timestep_cond: (b, d), the embedded guidance scale, for a T2I with time_cond_proj_dim,
                such as a latent consistency model.

        Returns:
            `.sample` (b, c_out, t, h, w).

        Raises:
            ValueError: if the sample or a condition has another shape; the message names it.
        """
        self._check_sample(sample)
        batch_size, _, num_frames, height, width = sample.shape
        here = embed_conditions(
            self.unet,
            sample,
            timestep,
            encoder_hidden_states,
            encoder_attention_mask,
            class_labels,
            added_cond_kwargs or {},
            timestep_cond,
            self.gradient_checkpointing,
        )
        factor = 2**self.unet.num_upsamplers
        force_size = height % factor != 0 or width % factor != 0
        down, mid, up = self.blocks()

        # --- in: (b, c, t, h, w) -> (b t) c h w
        hidden = self._project_in(sample)

        # --- down: space is halved after each block but the last, and time where it is resampled
        skips = [hidden]
        for block in down:
            hidden, block_skips, here = run_down_block(block, hidden, here)
            skips += block_skips

        # --- mid
        if mid is not None:
            hidden = run_mid_block(mid, hidden, here)

        # --- up: every skip sets the size and frame count to upsample to
        for block in up:
            hidden, here = run_up_block(block, hidden, skips, here, force_size)

        # --- out: (b t) c h w -> (b, c, t, h, w)
        hidden = self._project_out(hidden)
        output = hidden.unflatten(0, (batch_size, num_frames)).transpose(1, 2)
        return SpaceTimeUNetOutput(sample=output) if return_dict else (output,)

    def _project_in(self, sample: Tensor) -> Tensor:
        """Convolve each frame, and its conditioning: (b, c, t, h, w) -> (b t) c h w."""
        batch_size, _, num_frames, height, width = sample.shape
        # In channels-last memory: see lumiere/models/temporal.py.
        frames = sample.permute(0, 2, 3, 4, 1).reshape(batch_size * num_frames, height, width, -1)
        frames = frames.permute(0, 3, 1, 2)
        noisy = frames[:, : self.in_channels]
        if self.unet.config.center_input_sample:
            noisy = 2 * noisy - 1.0
        hidden = self.unet.conv_in(noisy)
        if self.conv_in_conditioning is not None:
            hidden = hidden + self.conv_in_conditioning(frames[:, self.in_channels :])
        return hidden

    def _project_out(self, hidden: Tensor) -> Tensor:
        if self.unet.conv_norm_out is not None:
            hidden = self.unet.conv_act(self.unet.conv_norm_out(hidden))
        return self.unet.conv_out(hidden)

    def _check_sample(self, sample: Tensor) -> None:
        if sample.ndim != 5 or sample.shape[1] != self.total_channels or 0 in sample.shape:
            raise ValueError(
                f"sample has shape {tuple(sample.shape)}; expected (b, {self.total_channels}, t, h, w) with t >= 1"
            )
        if any(size % self._size_factor for size in sample.shape[-2:]):
            raise ValueError(
                f"sample has shape {tuple(sample.shape)}; expected h and w divisible by {self._size_factor}, because "
                "this image network's upsamplers always double the size"
            )


def layers_in_order(network: UNet2DConditionModel | SpaceTimeUNet) -> list[nn.Module]:
    """Return the layers of every block of an image U-Net or a Space-Time U-Net, from the input to
    the output.
    """
    blocks = network.blocks() if isinstance(network, SpaceTimeUNet) else image_blocks(network)
    down, mid, up = blocks
    layers: list[nn.Module] = []
    for block in [*down, *([] if mid is None else [mid]), *up]:
        layers += block.layers()
    return layers


def _get(layers: nn.ModuleDict, index: int) -> nn.Module | None:
    key = str(index)
    if key not in layers:
        return None
    return layers[key]


def _spread(resampling: bool | Sequence[bool], halvings: list[bool]) -> list[int]:
    """Indices of the down blocks after which time is halved."""
    places = [index for index, halves in enumerate(halvings) if halves]
    if isinstance(resampling, bool):
        return places if resampling else []
    is_list = isinstance(resampling, Sequence)
    if not is_list or [type(each) for each in resampling] != [bool] * len(places):
        raise ValueError(
            f"temporal_resampling {resampling!r}; allowed: true, false, or a list of {len(places)} of them"
        )
    return [place for place, is_on in zip(places, resampling, strict=True) if is_on]

"""Layers that keep and copy less than PyTorch's own, for the image network and the temporal layers.

For each layer, PyTorch keeps everything that the gradients of its arguments need, even of arguments
that are not trained. Most layers here are frozen, so their convolutions do not need their inputs.
Computing the output of a norm again is cheaper than keeping it. `torch.compile` and autocast make
such choices themselves, so under them the plain operations run.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

CPU_HEAD_DIM = 16  # PyTorch's attention on a CPU is slower with narrower heads
FEW_FRAMES = 32  # up to this many frames, a CPU attends with plain matrix products


def keeps_little(*tensors: Tensor) -> bool:
    """Return whether a lean layer may run: tensors of one dtype, with a backward pass, without
    compiler and autocast.
    """
    same_dtype = all(tensor.dtype == tensors[0].dtype for tensor in tensors)
    # Autocast ignores meta tensors, which `lumiere inspect` uses in place of a GPU's.
    device = tensors[0].device.type.replace("meta", "cuda")
    optimised_elsewhere = torch.compiler.is_compiling() or torch.is_autocast_enabled(device)
    goes_back = torch.is_grad_enabled() and tensors[0].requires_grad
    return same_dtype and goes_back and not optimised_elsewhere


def add(fresh: Tensor, other: Tensor) -> Tensor:
    """Compute `fresh + other` in the memory of `fresh`, a convolution's output that no gradient
    needs.

    Do not use it for views, such as a linear layer's output by frames: autograd copies gradients
    through those.
    """
    return fresh.add_(other) if fresh.dtype == other.dtype else fresh + other


class _FrozenConvolution(torch.autograd.Function):
    """A frozen convolution that keeps only its weight for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any
    ) -> Tensor:
        ctx.save_for_backward(weight)
        by_channel = inputs.is_contiguous(memory_format=torch.channels_last)
        ctx.memory_format = torch.channels_last if by_channel else torch.contiguous_format
        ctx.shape, ctx.settings = inputs.shape, settings
        return F.conv2d(inputs, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        # The kernel reads only the shape and the memory format.
        inputs = torch.empty(
            ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=ctx.memory_format
        )
        grad_inputs, _, _ = torch.ops.aten.convolution_backward(
            grad,
            inputs,
            weight,
            None,
            stride,
            padding,
            dilation,
            False,
            [0, 0],
            groups,
            [True, False, False],
        )
        return grad_inputs, *[None] * 6


class LeanConv2d(nn.Conv2d):
    """A convolution that does not keep its input while it is frozen.

    In channels-last memory a 1 x 1 convolution runs as a matrix product.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self._is_product and input.is_contiguous(memory_format=torch.channels_last):
            return F.linear(input.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
        frozen = not (weight.requires_grad or (bias is not None and bias.requires_grad))
        plain = self.padding_mode == "zeros" and isinstance(self.padding, tuple)
        if frozen and plain and keeps_little(input, weight):
            return _FrozenConvolution.apply(
                input, weight, bias, self.stride, self.padding, self.dilation, self.groups
            )
        return super()._conv_forward(input, weight, bias)

    @property
    def _is_product(self) -> bool:
        return (
            self.kernel_size == self.stride == (1, 1)
            and self.padding in ((0, 0), "valid")
            and self.groups == 1
        )


class _NormSiLU(torch.autograd.Function):
    """SiLU of a group norm, in place; the backward pass computes the norm's output again."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> Tensor:
        n, c, h, w = inputs.shape
        normed, mean, rstd = torch.native_group_norm(inputs, weight, bias, n, c, h * w, groups, eps)
        ctx.save_for_backward(inputs, weight, bias, mean, rstd)
        ctx.groups, ctx.eps = groups, eps
        return F.silu(normed, inplace=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, bias, mean, rstd = ctx.saved_tensors
        n, c, h, w = inputs.shape
        normed = F.group_norm(inputs, ctx.groups, weight, bias, ctx.eps)
        grad = torch.ops.aten.silu_backward.grad_input(grad, normed, grad_input=normed)
        grads = torch.ops.aten.native_group_norm_backward(
            grad,
            inputs,
            mean,
            rstd,
            weight,
            n,
            c,
            h * w,
            ctx.groups,
            list(ctx.needs_input_grad[:3]),
        )
        return *grads, None, None


class LeanGroupNorm(nn.GroupNorm):
    """A group norm, on n c h w, that keeps little for the backward pass if SiLU follows it."""

    def forward(self, input: Tensor, silu: bool = False) -> Tensor:
        """Compute the norm, or `silu` of the norm."""
        if silu and self._fits(input) and keeps_little(input, self.weight, self.bias):
            return _NormSiLU.apply(input, self.weight, self.bias, self.num_groups, self.eps)
        # On a CPU, the backward pass of torch 2.13 crashes the process if the input is in
        # channels-last memory and needs no gradient. Such an input is copied into the other layout.
        trains = torch.is_grad_enabled() and self.weight.requires_grad
        if trains and not input.requires_grad and input.device.type == "cpu":
            input = input.contiguous()
        normed = super().forward(input)
        return F.silu(normed, inplace=not torch.is_grad_enabled()) if silu else normed

    def _fits(self, input: Tensor) -> bool:
        """Return whether the kernel takes the input's strides and device.

        On a GPU, it does not take channels-last memory, which `F.group_norm` copies.
        """
        by_channel = input.is_contiguous(memory_format=torch.channels_last)
        strides_fit = input.is_contiguous() or (by_channel and input.stride(0) == input[0].numel())
        return strides_fit and input.device.type == "cpu"


class LeanResnet(ResnetBlock2D):
    """A ResNet block of an image network, with a shorter path for blocks that use SiLU and keep the
    size.
    """

    def forward(self, input_tensor: Tensor, temb: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """n c h w, and the timestep's embedding (n, d) -> n c h w; other arguments are diffusers'."""
        resized = self.upsample is not None or self.downsample is not None
        is_plain = self.time_embedding_norm in ("default", "scale_shift") and isinstance(
            self.nonlinearity, nn.SiLU
        )
        if resized or not is_plain or self.time_emb_proj is None:
            return super().forward(input_tensor, temb, *args, **kwargs)
        temb = self.time_emb_proj(temb if self.skip_time_act else F.silu(temb))[:, :, None, None]
        hidden = self.conv1(self.norm1(input_tensor, silu=True))
        if self.time_embedding_norm == "default":
            hidden = self.norm2(add(hidden, temb), silu=True)
        else:
            scale, shift = temb.chunk(2, dim=1)
            hidden = F.silu(
                torch.addcmul(shift, self.norm2(hidden), 1 + scale),
                inplace=not torch.is_grad_enabled(),
            )
        hidden = self.conv2(self.dropout(hidden))
        shortcut = input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor)
        hidden = add(hidden, shortcut)
        return hidden if self.output_scale_factor == 1 else hidden / self.output_scale_factor


class LeanTransformer(Transformer2DModel):
    """An image network's transformer that stays in channels-last memory, where diffusers' own makes
    a copy in another layout.
    """

    def _get_output_for_continuous_inputs(
        self,
        hidden_states: Tensor,
        residual: Tensor,
        batch_size: int,
        height: int,
        width: int,
        inner_dim: int,
    ) -> Tensor:
        if self.use_linear_projection:
            hidden_states = self.proj_out(hidden_states)
        hidden_states = hidden_states.reshape(batch_size, height, width, -1).permute(0, 3, 1, 2)
        if not self.use_linear_projection:
            hidden_states = self.proj_out(hidden_states)
        return hidden_states + residual


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute attention of (b, l, heads, d) to (b, n, heads, d); the result is (b, l, heads, d).

    `bias` (b, 1, n) is added to the scores.
    """
    width = query.shape[-1]
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    if query.device.type == "cpu" and query.shape[2] == key.shape[2] <= FEW_FRAMES and bias is None:
        return ((query * width**-0.5 @ key.mT).softmax(-1) @ value).transpose(1, 2)
    narrow = query.device.type == "cpu" and width < CPU_HEAD_DIM
    if narrow:
        query, key, value = (
            F.pad(states, (0, CPU_HEAD_DIM - width)) for states in (query, key, value)
        )
    bias = None if bias is None else bias[:, None]
    mixed = F.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, scale=width**-0.5
    ).transpose(1, 2)
    return mixed[..., :width] if narrow else mixed

"""The temporal layers that inflation adds to an image network (paper, section 3.1).

Frames travel folded into the batch, `(b t) c h w`, in channels-last memory. In that layout, `(b t)
c h w` and `b c t (h w)` are two views of the same memory `b t h w c`, so a layer over time needs no
copy. A temporal convolution runs as a 2-D convolution with a (k, 1) kernel over `b c t (h w)`: CPUs
and GPUs compute that as a matrix product, unlike a (k, 1, 1) 3-D convolution. Other memory formats
give the same result, with copies.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumiere.models.lean import LeanGroupNorm, attend

KERNEL_SIZE = 3


def group_count(channels: int, most: int = 32, least_width: int = 4) -> int:
    """Return the largest number of groups up to `most` that divides `channels`.

    Groups have at least `least_width` channels where possible. A group of one channel would lose
    that channel's mean, and at a level of one pixel it would lose everything.
    """
    allowed = range(1, max(1, min(most, channels // least_width)) + 1)
    return max(groups for groups in allowed if channels % groups == 0)


def unfold_time(hidden_states: Tensor, num_frames: int) -> Tensor:
    """(b t) c h w -> b c t (h w)."""
    frames = hidden_states.shape[0]  # len() would fix it for torch.compile
    unfolded = hidden_states.unflatten(0, (frames // num_frames, num_frames)).flatten(3)
    return unfolded.transpose(1, 2)


def fold_time(hidden_states: Tensor, height: int, width: int) -> Tensor:
    """b c t (h w) -> (b t) c h w."""
    batch_size, channels, num_frames, _ = hidden_states.shape
    return hidden_states.transpose(1, 2).reshape(batch_size * num_frames, channels, height, width)


def temporal_conv(
    channels: int, stride: int = 1, init: str = "he", kind: type[nn.Conv2d] = nn.Conv2d
) -> nn.Conv2d:
    """Make a convolution over time only, on b c t (h w).

    It is a plain layer, so that adapters can make others like it.

    Args:
        channels: of input and output.
        stride: over time.
        init: "identity" passes the input on (every `stride`-th frame); "he" is random.
        kind: the class of the layer.
    """
    conv = kind(
        channels, channels, (KERNEL_SIZE, 1), stride=(stride, 1), padding=(KERNEL_SIZE // 2, 0)
    )
    if init == "identity":
        nn.init.dirac_(conv.weight)
    else:
        nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class TemporalDownsample(nn.Module):
    """Halves the frame count with a temporal convolution of stride 2; t frames become ceil(t /
    2).
    """

    def __init__(self, channels: int, init: str = "nearest") -> None:
        """`init`: "nearest" starts at nearest-neighbour resampling (the paper's), "he" at random
        (its ablation).
        """
        super().__init__()
        self.conv = temporal_conv(
            channels, stride=2, init="identity" if init == "nearest" else "he"
        )

    def forward(self, hidden_states: Tensor, num_frames: int) -> Tensor:
        """(b t) c h w -> (b ceil(t / 2)) c h w."""
        height, width = hidden_states.shape[-2:]
        return fold_time(self.conv(unfold_time(hidden_states, num_frames)), height, width)


class TemporalConvPairs(nn.Conv2d):
    """A temporal convolution of frames that are each repeated once, without storing the repeats.

    Of the three taps w0, w1, w2 on repeated frames of x, two fall on the same frame: y[2i] = w0
    x[i-1] + (w1 + w2) x[i] and y[2i+1] = (w0 + w1) x[i] + w2 x[i+1]. Both come from pairs of
    neighbours, in one convolution with a third less arithmetic.
    """

    def forward(self, input: Tensor) -> Tensor:
        """b c t (h w) -> b 2 c (t + 1) (h w); pair i is y[2i-1] and y[2i] on the channel axis."""
        first, middle, last = self.weight.unbind(dim=2)  # each (c, c, 1)
        odd = torch.stack([first + middle, last], dim=2)
        even = torch.stack([first, middle + last], dim=2)
        weight, bias = torch.cat([odd, even]), self.bias.repeat(2)  # type: ignore[union-attr]
        return F.conv2d(input, weight, bias, padding=(1, 0))


class TemporalUpsample(nn.Module):
    """Doubles the frame count: repeats each frame, applies a temporal convolution, and cuts the
    result to the requested count.
    """

    def __init__(self, channels: int, init: str = "nearest") -> None:
        """`init` as in `TemporalDownsample`."""
        super().__init__()
        self.conv = temporal_conv(
            channels, init="identity" if init == "nearest" else "he", kind=TemporalConvPairs
        )

    def forward(self, hidden_states: Tensor, num_frames: int, target_frames: int) -> Tensor:
        """(b t) c h w -> (b target_frames) c h w, target_frames <= 2 t."""
        height, width = hidden_states.shape[-2:]
        pairs = self.conv(unfold_time(hidden_states, num_frames))  # (b, 2 c, t + 1, h w)
        # In memory, b (t + 1) (h w) 2 c.
        both = pairs.permute(0, 2, 3, 1).unflatten(3, (2, -1))  # (b, t + 1, h w, 2, c)
        both = both.transpose(2, 3).flatten(1, 2)  # (b, 2 t + 2, h w, c)
        both = both[:, 1 : target_frames + 1].flatten(0, 1)
        return both.unflatten(1, (height, width)).permute(0, 3, 1, 2)


class ConvInflationBlock(nn.Module):
    """A factorised space-time convolution in a residual, for every level but the coarsest.

    A 2-D convolution and a temporal convolution follow each other, each with norm and activation.
    Then comes a projection that starts at zero. Norm statistics are per frame, so that a window of
    a clip gets the same statistics as the whole clip.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.spatial_norm = LeanGroupNorm(group_count(channels), channels)
        self.temporal_conv = temporal_conv(channels)
        self.temporal_norm = LeanGroupNorm(group_count(channels), channels)
        self.proj_out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)  # type: ignore[arg-type]

    def forward(self, hidden_states: Tensor, num_frames: int) -> Tensor:
        """(b t) c h w -> (b t) c h w."""
        height, width = hidden_states.shape[-2:]
        inner = self.spatial_norm(self.spatial_conv(hidden_states), silu=True)
        inner = fold_time(self.temporal_conv(unfold_time(inner, num_frames)), height, width)
        inner = self.temporal_norm(inner, silu=True)
        return hidden_states + self.proj_out(inner)


def rotary_angles(num_frames: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and signed sines (t, head_dim) of rotary positions (Su et al. 2021), for
    any frame count.
    """
    rates = 10000.0 ** (
        -torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
    )
    angles = torch.arange(num_frames, device=device, dtype=torch.float32)[:, None] * rates
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(states: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair of channels, i and i + d / 2, of (..., t, d) by its frame's angle."""
    cos, sin = (part.to(states.dtype) for part in angles)
    return torch.addcmul(states * cos, states.roll(states.shape[-1] // 2, dims=-1), sin)


class TemporalAttention(nn.Module):
    """Pre-norm, bidirectional self-attention over time with rotary positions, in a residual."""

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(
                f"channels {channels}; allowed: an even number, rotary positions turn pairs"
            )
        most = max(1, channels // head_dim)
        self.num_heads = max(heads for heads in range(1, most + 1) if channels % (2 * heads) == 0)
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def forward(self, hidden_states: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """(n, t, c) -> (n, t, c)."""
        n, num_frames, channels = hidden_states.shape
        qkv = self.qkv(self.norm(hidden_states)).view(
            n, num_frames, 3 * self.num_heads, channels // self.num_heads
        )
        both, value = qkv.split([2 * self.num_heads, self.num_heads], dim=2)
        rotated = rotate(both.transpose(1, 2), angles).transpose(1, 2)
        query, key = rotated.chunk(2, dim=2)  # each (n, t, heads, d)
        mixed = attend(query, key, value).reshape(n, num_frames, channels)
        return hidden_states + self.out(mixed)


class AttentionInflationBlock(nn.Module):
    """Temporal self-attention layers, then a projection that starts at zero, in a residual: the
    coarsest level.
    """

    def __init__(self, channels: int, num_layers: int, head_dim: int = 32) -> None:
        super().__init__()
        self.norm = LeanGroupNorm(group_count(channels), channels)
        layers = [TemporalAttention(channels, head_dim) for _ in range(num_layers)]
        self.layers = nn.ModuleList(layers)
        self.head_dim = channels // layers[0].num_heads
        self.proj_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, hidden_states: Tensor, num_frames: int) -> Tensor:
        """(b t) c h w -> (b t) c h w."""
        frames, channels, height, width = hidden_states.shape
        batch_size, pixels = frames // num_frames, height * width
        inner = unfold_time(self.norm(hidden_states), num_frames)  # b c t (h w)
        inner = inner.permute(0, 3, 2, 1)  # b (h w) t c
        inner = inner.reshape(batch_size * pixels, num_frames, channels)
        angles = rotary_angles(num_frames, self.head_dim, hidden_states.device)
        for layer in self.layers:
            inner = layer(inner, angles)
        inner = self.proj_out(inner).view(batch_size, pixels, num_frames, channels).transpose(1, 2)
        return hidden_states + inner.reshape(frames, height, width, channels).permute(0, 3, 1, 2)

"""Temporal layers: resampling starts at nearest neighbour, blocks start as the identity, positions
are relative.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lumiere.models.temporal import (
    AttentionInflationBlock,
    ConvInflationBlock,
    TemporalAttention,
    TemporalDownsample,
    TemporalUpsample,
    fold_time,
    group_count,
    rotary_angles,
    rotate,
    temporal_conv,
    unfold_time,
)


def frames(batch_size: int, num_frames: int, channels: int = 8, seed: int = 0) -> Tensor:
    """(b t) c h w, not square."""
    return torch.randn(
        batch_size * num_frames, channels, 3, 2, generator=torch.Generator().manual_seed(seed)
    )


def test_unfold_and_fold_are_inverses() -> None:
    hidden = frames(2, 5)
    unfolded = unfold_time(hidden, 5)
    assert unfolded.shape == (2, 8, 5, 6)
    assert torch.equal(unfolded[1, :, 3].reshape(8, 3, 2), hidden[5 + 3])
    assert torch.equal(fold_time(unfolded, 3, 2), hidden)


@pytest.mark.parametrize("num_frames", [1, 2, 5, 16])
def test_downsampling_starts_by_taking_every_second_frame(num_frames: int) -> None:
    hidden = frames(2, num_frames)
    expected = hidden.view(2, num_frames, 8, 3, 2)[:, ::2].reshape(-1, 8, 3, 2)
    assert len(expected) == 2 * ((num_frames + 1) // 2)
    torch.testing.assert_close(TemporalDownsample(8)(hidden, num_frames), expected)


@pytest.mark.parametrize(("num_frames", "target"), [(1, 1), (1, 2), (3, 5), (3, 6), (8, 16)])
def test_upsampling_starts_by_repeating_frames_up_to_the_count_asked_for(
    num_frames: int, target: int
) -> None:
    hidden = frames(2, num_frames)
    expected = (
        hidden.view(2, num_frames, 8, 3, 2)
        .repeat_interleave(2, dim=1)[:, :target]
        .reshape(-1, 8, 3, 2)
    )
    torch.testing.assert_close(TemporalUpsample(8)(hidden, num_frames, target), expected)


def test_the_ablation_starts_at_random() -> None:
    hidden = frames(1, 4)
    assert not torch.allclose(
        TemporalDownsample(8, "he")(hidden, 4), TemporalDownsample(8)(hidden, 4), atol=1e-2
    )
    assert not torch.allclose(
        TemporalUpsample(8, "he")(hidden, 4, 8), TemporalUpsample(8)(hidden, 4, 8), atol=1e-2
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_a_temporal_convolution_is_a_convolution_over_frames_alone(stride: int) -> None:
    conv = temporal_conv(8, stride)
    reference = nn.Conv3d(8, 8, (3, 1, 1), stride=(stride, 1, 1), padding=(1, 0, 0))
    reference.load_state_dict({"weight": conv.weight.unsqueeze(-1), "bias": conv.bias})
    video = torch.randn(2, 8, 5, 3, 2)
    torch.testing.assert_close(conv(video.flatten(3)), reference(video).flatten(3))


@pytest.mark.parametrize(
    "block", [ConvInflationBlock(8), AttentionInflationBlock(8, 2, head_dim=4)]
)
def test_an_inflation_block_starts_as_the_identity(block: nn.Module) -> None:
    hidden = frames(2, 5)
    assert torch.equal(block(hidden, 5), hidden)


@pytest.mark.parametrize(
    "block", [ConvInflationBlock(8), AttentionInflationBlock(8, 1, head_dim=4)]
)
def test_an_inflation_block_mixes_frames_but_not_clips(block: nn.Module) -> None:
    nn.init.normal_(block.proj_out.weight)
    hidden = frames(2, 5)
    changed = hidden.clone()
    changed[1] += 1 + torch.arange(8.0).view(8, 1, 1)  # frame 1 of clip 0
    difference = (block(hidden, 5) - block(changed, 5)).abs().amax(dim=(1, 2, 3)).view(2, 5)
    assert difference[0, [0, 2]].min() > 1e-4
    assert difference[1].max() == 0


def test_attention_sees_distances_not_positions() -> None:
    angles = rotary_angles(6, 8, torch.device("cpu"))
    query, key = torch.randn(8), torch.randn(8)
    scores = rotate(query.expand(6, 8), angles) @ rotate(key.expand(6, 8), angles).T
    for distance in range(-5, 6):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert scores[0].std() > 0


def test_attention_reaches_the_last_frame_from_the_first_and_back() -> None:
    layer = TemporalAttention(8, 4)
    states = torch.randn(1, 16, 8, requires_grad=True)
    out = layer(states, rotary_angles(16, 4, torch.device("cpu")))
    assert torch.autograd.grad(out[0, -1].sum(), states, retain_graph=True)[0][0, 0].abs().sum() > 0
    assert torch.autograd.grad(out[0, 0].sum(), states)[0][0, -1].abs().sum() > 0


@pytest.mark.parametrize("channels", [1, 2, 7, 16, 30, 48, 96, 320, 1280])
def test_groups_divide_the_channels_and_are_not_single_channels(channels: int) -> None:
    groups = group_count(channels)
    assert channels % groups == 0 and 1 <= groups <= 32
    assert channels // groups >= min(4, channels)


@pytest.mark.parametrize("channels", [6, 16, 30, 33, 48, 320])
def test_heads_divide_any_even_width(channels: int) -> None:
    if channels % 2:
        with pytest.raises(ValueError, match="33"):
            TemporalAttention(channels, 32)
        return
    layer = TemporalAttention(channels, 32)
    head_dim = channels // layer.num_heads
    assert head_dim * layer.num_heads == channels and head_dim % 2 == 0

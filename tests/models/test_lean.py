"""What keeps little for the backward pass gives what the plain operations give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

from lumiere.models import SpaceTimeUNet, lean
from tests.models.zoo import inflate, make_inputs, random_video, randomise_temporal


@pytest.mark.parametrize(("batch_size", "num_frames"), [(1, 1), (1, 6), (2, 5)])
@pytest.mark.parametrize("name", ["ours", "sd1", "if_stage_1", "without_mid_block"])
def test_keeping_little_changes_no_gradient(
    name: str, batch_size: int, num_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, unet2d, _, _ = inflate(name)
    randomise_temporal(model)
    image, given = make_inputs(unet2d, batch_size)
    video, found = random_video(image, num_frames), []
    for _ in range(2):
        model.zero_grad()
        model(video, **given).sample.square().mean().backward()
        found.append([parameter.grad.clone() for parameter in model.temporal_parameters()])
        monkeypatch.setattr(lean, "keeps_little", lambda *_: False)
    for value, expected in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("heads", "width", "frames"), [(2, 4, 5), (1, 16, 5), (2, 8, 40), (2, 32, 40)]
)
def test_attention_is_pytorchs(heads: int, width: int, frames: int) -> None:
    query, key, value = torch.randn(3, 2, frames, heads, width).unbind()
    expected = F.scaled_dot_product_attention(
        *(states.transpose(1, 2) for states in (query, key, value))
    )
    torch.testing.assert_close(lean.attend(query, key, value), expected.transpose(1, 2))
    bias = torch.randn(2, 1, frames)
    expected = F.scaled_dot_product_attention(
        *(states.transpose(1, 2) for states in (query, key, value)), bias[:, None]
    )
    torch.testing.assert_close(lean.attend(query, key, value, bias), expected.transpose(1, 2))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_network_of_one_level_trains(checkpointing: bool) -> None:
    # Nothing before its first temporal norm is trained: torch 2.13 crashes there on its own.
    torch.manual_seed(0)
    unet2d = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        norm_num_groups=4,
    )
    model = SpaceTimeUNet.from_unet2d(unet2d)
    randomise_temporal(model)
    model.set_gradient_checkpointing(checkpointing)
    video = torch.randn(1, 4, 3, 8, 8)
    expected = None
    for needs_grad in (True, False):
        model.zero_grad()
        model(video.clone().requires_grad_(needs_grad), 3).sample.square().mean().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_temporal_parameters()}
        assert all(gradient.abs().sum() > 0 for gradient in gradients.values())
        expected = expected or gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)

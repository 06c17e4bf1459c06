"""What keeps little for the backward pass gives what the plain operations give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lumiere.models import lean
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

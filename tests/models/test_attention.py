"""Text once per clip: under any attention processor, in copies and pickles, and in checkpointing."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import (
    Attention,
    AttnAddedKVProcessor,
    AttnProcessor,
    AttnProcessor2_0,
    SlicedAttnProcessor,
)
from torch import Tensor

from lumiere.models import SpaceTimeUNet
from tests.models.zoo import as_video, make_inputs, make_unet2d, randomise_temporal


class Recorder(AttnProcessor2_0):
    """A processor of a user's own, which sees what each attention is given."""

    def __init__(self, seen: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.seen = seen

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        *rest: Any,
        **named: Any,
    ):
        if encoder_hidden_states is not None:
            self.seen.append((len(hidden_states), len(encoder_hidden_states)))
        return super().__call__(attn, hidden_states, encoder_hidden_states, *rest, **named)


def make(name: str) -> tuple[SpaceTimeUNet, Tensor, dict[str, Any]]:
    """A network with moved temporal weights, a random video and the other arguments: masks, and
    text by clip.
    """
    unet2d = make_unet2d(name)
    model = SpaceTimeUNet.from_unet2d(unet2d)
    randomise_temporal(model)
    image, given = make_inputs(unet2d)
    return model, as_video(image, 5) + torch.linspace(-1, 1, 5).view(1, 1, 5, 1, 1), given


SETTINGS: dict[str, Callable[[Any], None]] = {
    "plain": lambda unet: unet.set_attn_processor(AttnProcessor()),
    "scaled_dot_product": lambda unet: unet.set_attn_processor(AttnProcessor2_0()),
    "sliced": lambda unet: unet.set_attn_processor(SlicedAttnProcessor(2)),
    "own": lambda unet: unet.set_attn_processor(Recorder([])),
    "by_name": lambda unet: unet.set_attn_processor(
        {name: AttnProcessor() for name in unet.attn_processors}
    ),
    "default": lambda unet: unet.set_default_attn_processor(),
    "slices": lambda unet: unet.set_attention_slice("max"),
    "fused": lambda unet: unet.fuse_qkv_projections(),
    "added_kv": lambda unet: unet.set_attn_processor(AttnAddedKVProcessor()),
}
PLAIN = [
    (name, setting) for name in ("ours", "sd1") for setting in SETTINGS if setting != "added_kv"
]


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        *PLAIN,
        *(
            (name, s)
            for name in ("if_stage_1", "if_stage_2")
            for s in ("added_kv", "default", "slices")
        ),
    ],
)
@torch.no_grad()
def test_processors_are_the_users_to_choose(name: str, setting: str) -> None:
    model, video, given = make(name)
    expected = model(video, **given).sample
    SETTINGS[setting](model.unet)
    torch.testing.assert_close(model(video, **given).sample, expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_foreign_processor_is_given_text_once_per_frame() -> None:
    model, video, given = make("sd1")
    seen: list[tuple[int, ...]] = []
    model.unet.set_attn_processor(Recorder(seen))
    model(video, **given)
    assert set(seen) == {(10, 10), (6, 6), (4, 4)}


@pytest.mark.parametrize("plain", [AttnProcessor, AttnProcessor2_0])
@torch.no_grad()
def test_text_is_projected_once_per_clip(plain: type[Any]) -> None:
    model, video, given = make("sd1")
    model.unet.set_attn_processor(plain())
    seen: list[int] = []
    for module in model.unet.modules():
        if isinstance(module, Attention) and module.is_cross_attention:
            module.to_k.register_forward_pre_hook(
                lambda _, arguments: seen.append(len(arguments[0]))
            )
    model(video, **given)
    assert set(seen) == {2}


@pytest.mark.parametrize("name", ["ours", "sdxl", "if_stage_1", "if_stage_2"])
@torch.no_grad()
def test_copies_and_pickles_give_the_same(name: str) -> None:
    model, video, given = make(name)
    expected = model(video, **given).sample
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(video, **given).sample, expected)
        assert not {p.data_ptr() for p in other.parameters()} & {
            p.data_ptr() for p in model.parameters()
        }


@pytest.mark.parametrize("name", ["sd1", "if_stage_1"])
@torch.no_grad()
def test_the_argument_keeps_its_attention(name: str) -> None:
    unet2d = make_unet2d(name)
    image, given = make_inputs(unet2d)
    modules = {key: (module, type(module)) for key, module in unet2d.named_modules()}
    processors, expected = dict(unet2d.attn_processors), unet2d(image, **given).sample
    model = SpaceTimeUNet.from_unet2d(unet2d)
    assert {key: (module, type(module)) for key, module in unet2d.named_modules()} == modules
    assert all(unet2d.attn_processors[key] is value for key, value in processors.items())
    assert not {id(p) for p in model.unet.attn_processors.values()} & {
        id(p) for p in processors.values()
    }
    assert torch.equal(unet2d(image, **given).sample, expected)
    assert all(
        type(module) is Attention for module in unet2d.modules() if isinstance(module, Attention)
    )


@torch.no_grad()
def test_an_image_model_with_other_processors_is_inflated_as_any() -> None:
    unet2d = make_unet2d("sd1")
    image, given = make_inputs(unet2d)
    unet2d.set_attn_processor(SlicedAttnProcessor(2))
    output = SpaceTimeUNet.from_unet2d(unet2d)(as_video(image, 3), **given).sample
    torch.testing.assert_close(
        output, as_video(unet2d(image, **given).sample, 3), atol=2e-5, rtol=1e-4
    )


def test_fused_projections_are_refused_by_name() -> None:
    unet2d = make_unet2d("sd1")
    unet2d.fuse_qkv_projections()
    with pytest.raises(
        ValueError,
        match=r"the layers of unet2d and of its config differ.*'down_blocks\.0\..*before inflation",
    ):
        SpaceTimeUNet.from_unet2d(unet2d)

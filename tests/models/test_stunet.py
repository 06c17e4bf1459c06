"""The Space-Time U-Net against the text-to-image models it inflates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lumiere.models import SpaceTimeUNet
from lumiere.models.unet_builders import build_text_to_image_unet
from tests.models.zoo import (
    NAMES,
    NEED_WHOLE_HALVINGS,
    TEXT_DIM,
    as_video,
    inflate,
    make_inputs,
    make_unet2d,
    random_video,
    randomise_temporal,
    shared,
)

# --- equality with the text-to-image model --------------------------------------------------------


@pytest.mark.parametrize("num_frames", [1, 5, 16])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_equals_the_image_model_where_all_frames_are_alike(name: str, num_frames: int) -> None:
    model, unet2d, image, given = shared(name)
    expected = unet2d(image, **given).sample
    output = model(as_video(image, num_frames), **given).sample
    torch.testing.assert_close(output, as_video(expected, num_frames), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_equals_the_image_model_on_any_video_without_temporal_resampling(name: str) -> None:
    model, unet2d, image, given = shared(name, temporal_resampling=False)
    video = random_video(image, 3)
    output = model(video, **given).sample
    for frame in range(3):
        torch.testing.assert_close(
            output[:, :, frame], unet2d(video[:, :, frame], **given).sample, atol=2e-5, rtol=1e-4
        )


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NEED_WHOLE_HALVINGS])
@torch.no_grad()
def test_equals_the_image_model_at_odd_sizes(name: str) -> None:
    model, unet2d, _, _ = shared(name)
    image, given = make_inputs(unet2d, size=(7, 10))
    output = model(as_video(image, 3), **given).sample
    torch.testing.assert_close(
        output, as_video(unet2d(image, **given).sample, 3), atol=2e-5, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("halvings", "resampling", "mid_frames"),
    [
        *((halvings, True, (17, 9, 5, 3, 2)[halvings]) for halvings in (1, 2, 3, 4)),
        (4, [False, True, False, True], 5),
        (4, [False, False, False, True], 9),
        (4, False, 17),
        (3, [True, True, False], 5),
    ],
)
@torch.no_grad()
def test_one_to_four_halvings_of_time(halvings: int, resampling: Any, mid_frames: int) -> None:
    """An odd frame count at every level, and a size that does not halve evenly."""
    torch.manual_seed(0)
    unet2d = build_text_to_image_unet(16, (16,) * (halvings + 1), 1, TEXT_DIM).eval()
    image, given = make_inputs(unet2d, size=(9, 14))
    model = SpaceTimeUNet.from_unet2d(unet2d, temporal_resampling=resampling)
    seen: list[int] = []
    model.mid_inflation.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    output = model(as_video(image, 17), **given).sample
    assert seen == [mid_frames]
    torch.testing.assert_close(
        output, as_video(unet2d(image, **given).sample, 17), atol=2e-5, rtol=1e-4
    )
    randomise_temporal(model)
    video = random_video(image, 17)
    moved = video.clone()
    moved[:, :, 0] += 1
    difference = model(moved, **given).sample - model(video, **given).sample
    assert difference.shape == video.shape and difference[:, :, -1].abs().max() > 1e-7


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_images_go_through_as_videos_of_one_frame(name: str) -> None:
    """Each of a batch of images is alone, as a clip is, whatever the temporal weights."""
    model, unet2d, image, given = shared(name)
    torch.testing.assert_close(
        model(image.unsqueeze(2), **given).sample.squeeze(2),
        unet2d(image, **given).sample,
        atol=2e-5,
        rtol=1e-4,
    )
    model = shared(name, moved=True)[0]
    both = model(image.unsqueeze(2), **given).sample
    changed = image.clone()
    changed[1] += 1
    output = model(changed.unsqueeze(2), **given).sample
    torch.testing.assert_close(output[0], both[0], atol=2e-5, rtol=1e-4)
    assert (output[1] - both[1]).abs().max() > 1e-3


@torch.no_grad()
def test_the_ablation_starts_elsewhere_and_only_in_its_resampling() -> None:
    """He start moves the temporal resampling alone: without it the image model is met again."""
    model, unet2d, image, given = inflate("ours", resampling_init="he")
    nearest = SpaceTimeUNet.from_unet2d(unet2d)
    expected = as_video(unet2d(image, **given).sample, 5)
    assert (model(as_video(image, 5), **given).sample - expected).abs().max() > 1e-2
    for own, other in zip(
        [*model.temporal_downsamplers.values(), *model.temporal_upsamplers.values()],
        [*nearest.temporal_downsamplers.values(), *nearest.temporal_upsamplers.values()],
        strict=True,
    ):
        own.load_state_dict(other.state_dict())
    torch.testing.assert_close(
        model(as_video(image, 5), **given).sample, expected, atol=2e-5, rtol=1e-4
    )


@torch.no_grad()
def test_resampling_starts_at_nearest_neighbour() -> None:
    """Two halvings: the coarsest level sees frames 0 and 4, so frames 1 to 3 reach others through
    skips only.
    """
    model, _, image, given = shared("sd1")
    video = random_video(image, 8)
    changed = video.clone()
    changed[:, :, 3] += 1
    difference = (
        (model(video, **given).sample - model(changed, **given).sample).abs().amax(dim=(0, 1, 3, 4))
    )
    assert difference[3] > 0 and difference[[0, 1, 2, 4, 5, 6, 7]].max() == 0
    changed = video.clone()
    changed[:, :, 4] += 1
    difference = (
        (model(video, **given).sample - model(changed, **given).sample).abs().amax(dim=(0, 1, 3, 4))
    )
    assert difference[4:].min() > 0 and difference[:4].max() == 0


# --- what is copied, and what trains --------------------------------------------------------------


def test_the_argument_is_left_as_it_is_and_shares_no_memory() -> None:
    unet2d = make_unet2d("sd1")
    before = {name: value.clone() for name, value in unet2d.state_dict().items()}
    config = dict(unet2d.config)
    model = SpaceTimeUNet.from_unet2d(unet2d)
    assert all(parameter.requires_grad for parameter in unet2d.parameters())
    with torch.no_grad():
        next(model.spatial_parameters()).add_(1)
    assert dict(unet2d.config) == config
    assert all(torch.equal(value, before[name]) for name, value in unet2d.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_the_iterators_are_disjoint_and_complete(name: str) -> None:
    model, unet2d, _, _ = shared(name, conditioning_channels=4)
    temporal, spatial = list(model.temporal_parameters()), list(model.spatial_parameters())
    assert not {id(p) for p in temporal} & {id(p) for p in spatial}
    assert {id(p) for p in temporal + spatial} == {id(p) for p in model.parameters()}
    assert len(temporal) + len(spatial) == len(list(model.parameters()))
    assert all(p.requires_grad for p in temporal) and not any(p.requires_grad for p in spatial)
    assert len(spatial) == len(list(unet2d.parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_every_temporal_parameter_gets_a_gradient_once_the_projections_moved(name: str) -> None:
    model, _, image, given = inflate(name, conditioning_channels=4)
    randomise_temporal(model)
    model(random_video(image, 6, 4), **given).sample.square().mean().backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.startswith("unet."):
            assert parameter.grad is None
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", ["ours", "sd1", "if_stage_2"])
def test_training_leaves_the_image_model_bit_equal(name: str) -> None:
    model, unet2d, image, given = inflate(name, conditioning_channels=4)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2, weight_decay=0.1)
    before = {key: value.clone() for key, value in model.temporal_state_dict().items()}
    for _ in range(3):
        optimizer.zero_grad()
        model(random_video(image, 3, 4), **given).sample.square().mean().backward()
        optimizer.step()
    spatial = unet2d.state_dict()
    assert spatial.keys() == model.unet.state_dict().keys()
    now = model.unet.state_dict()
    assert all(torch.equal(value, now[key]) for key, value in spatial.items())
    assert all(
        not torch.equal(value, before[key]) for key, value in model.temporal_state_dict().items()
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_two_kinds_of_weights_split_the_network_buffers_too(name: str) -> None:
    model = shared(name, conditioning_channels=4)[0]
    temporal = model.temporal_state_dict()
    spatial = {f"unet.{key}": value for key, value in model.unet.state_dict().items()}
    assert not temporal.keys() & spatial.keys()
    assert temporal.keys() | spatial.keys() == model.state_dict().keys()
    assert all(key.startswith("unet.") for key, _ in model.named_buffers())
    assert temporal.keys() == {key for key, _ in model.named_temporal_parameters()}


@pytest.mark.parametrize(
    "name", ["ours", "sd1", "sdxl", "if_stage_1", "if_stage_2", "without_text", "without_mid_block"]
)
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    model, _, image, given = inflate(name)
    randomise_temporal(model)
    found = []
    for enabled in (False, True):
        model.set_gradient_checkpointing(enabled)
        model.zero_grad()
        output = model(random_video(image, 5), **given).sample
        output.square().mean().backward()
        found.append(
            [
                output.detach(),
                *(parameter.grad.clone() for parameter in model.temporal_parameters()),
            ]
        )
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_it_is_trained_or_evaluated_as_its_image_model_is() -> None:
    unet2d = make_unet2d("sd1")
    assert not SpaceTimeUNet.from_unet2d(unet2d).training
    assert SpaceTimeUNet.from_unet2d(unet2d.train()).training


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_first_and_last_frame_depend_on_each_other(name: str) -> None:
    model, _, image, given = shared(name, moved=True)
    video = random_video(image, 16)
    output = model(video, **given).sample
    for here, there in ((0, -1), (-1, 0)):
        changed = video.clone()
        changed[:, :, here] += 1
        assert (model(changed, **given).sample - output)[:, :, there].abs().max() > 1e-7


@pytest.mark.parametrize("num_frames", range(1, 10))
@torch.no_grad()
def test_any_frame_count(num_frames: int) -> None:
    model, _, image, given = shared("sd1", moved=True)
    output = model(random_video(image, num_frames), **given).sample
    assert output.shape == (2, 4, num_frames, 8, 8) and output.isfinite().all()


@torch.no_grad()
def test_a_level_of_t_frames_downsamples_to_half_rounded_up() -> None:
    model, _, image, given = shared("sd1")
    seen: list[int] = []
    handle = model.mid_inflation.register_forward_pre_hook(
        lambda _, arguments: seen.append(arguments[1])
    )
    for num_frames in (1, 5, 16, 80):
        model(random_video(image, num_frames), **given)
    handle.remove()
    assert seen == [1, 2, 4, 20]


@pytest.mark.parametrize(
    ("resampling", "mid_frames"), [(True, 2), (False, 8), ([True, False], 4), ((False, True), 4)]
)
@torch.no_grad()
def test_resampling_can_be_chosen_per_spatial_halving(resampling: Any, mid_frames: int) -> None:
    model, unet2d, image, given = inflate("sd1", temporal_resampling=resampling)
    seen: list[int] = []
    model.mid_inflation.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    output = model(as_video(image, 8), **given).sample
    assert seen == [mid_frames]
    torch.testing.assert_close(
        output, as_video(unet2d(image, **given).sample, 8), atol=2e-5, rtol=1e-4
    )


def test_attention_is_at_the_coarsest_level_only() -> None:
    model = shared("sd1")[0]
    kinds = [type(block).__name__ for block in [*model.down_inflations, *model.up_inflations]]
    conv, attention = "ConvInflationBlock", "AttentionInflationBlock"
    assert kinds == [conv, conv, attention, attention, conv, conv]
    assert len(model.mid_inflation.layers) == 3 and len(model.down_inflations[-1].layers) == 1


# --- text and other conditions --------------------------------------------------------------------


@torch.no_grad()
def test_clips_of_a_batch_do_not_meet() -> None:
    model, _, image, given = shared("ours", moved=True)
    video = random_video(image, 5)
    together = model(video, **given).sample
    for clip in range(2):
        own = {name: value[clip : clip + 1] for name, value in given.items()}
        alone = model(video[clip : clip + 1], **own).sample
        torch.testing.assert_close(together[clip : clip + 1], alone, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_masked_tokens_are_not_seen_and_others_are() -> None:
    model, _, image, given = shared("sd1")
    video = random_video(image, 3)
    output = model(video, **given).sample
    text = given["encoder_hidden_states"].clone()
    text[1, 2:] += 10
    torch.testing.assert_close(
        model(video, **(given | {"encoder_hidden_states": text})).sample, output
    )
    text[1, 0] += 10
    assert not torch.allclose(
        model(video, **(given | {"encoder_hidden_states": text})).sample[1], output[1], atol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
@torch.no_grad()
def test_masks_of_any_dtype(dtype: torch.dtype) -> None:
    model, _, image, given = shared("sd1")
    video = random_video(image, 2)
    mask = given["encoder_attention_mask"].to(dtype)
    assert torch.equal(
        model(video, **(given | {"encoder_attention_mask": mask})).sample,
        model(video, **given).sample,
    )


@torch.no_grad()
def test_timesteps_as_number_scalar_and_vector() -> None:
    model, _, image, given = shared("sd1")
    video = random_video(image, 2)
    outputs = [
        model(video, **(given | {"timestep": timestep})).sample
        for timestep in (500, torch.tensor(500), torch.tensor([500]), torch.tensor([500, 500]))
    ]
    assert all(torch.equal(output, outputs[0]) for output in outputs)


@pytest.mark.parametrize("name", ["ours", "sd_inpainting"])
@torch.no_grad()
def test_conditioning_channels_start_without_effect_and_leave_the_first_convolution(
    name: str,
) -> None:
    model, unet2d, image, given = inflate(name, conditioning_channels=4)
    plain = SpaceTimeUNet.from_unet2d(unet2d)
    video = random_video(image, 5, extra_channels=4)
    channels = unet2d.config.in_channels
    assert model.total_channels == channels + 4
    assert torch.equal(model.unet.conv_in.weight, unet2d.conv_in.weight)
    output = model(video, **given).sample
    torch.testing.assert_close(output, plain(video[:, :channels], **given).sample)

    added = dict(model.named_parameters())["conv_in_conditioning.weight"]
    assert any(added is parameter for parameter in model.temporal_parameters())
    assert model.conv_in_conditioning.bias is None
    torch.nn.init.normal_(added)
    changed = video.clone()
    changed[:, channels:] = 0
    assert not torch.allclose(model(video, **given).sample, output, atol=1e-3)
    torch.testing.assert_close(
        model(changed, **given).sample, plain(video[:, :channels], **given).sample
    )


@torch.no_grad()
def test_growing_the_input_of_a_trained_network_changes_nothing() -> None:
    model, _, image, given = inflate("ours", temporal_resampling=[True, False], temporal_head_dim=8)
    randomise_temporal(model)
    grown = model.with_conditioning(4)
    video = random_video(image, 5, extra_channels=4)
    assert torch.equal(grown(video, **given).sample, model(video[:, :3], **given).sample)
    changed = {key for key, value in grown.config.items() if model.config[key] != value}
    assert (
        changed - {"_use_default_values"} == {"conditioning_channels"}
        and grown.config.conditioning_channels == 4
    )
    assert not any(parameter.requires_grad for parameter in grown.spatial_parameters())
    assert (
        not grown.training
        and grown.with_conditioning(4).conv_in_conditioning is not grown.conv_in_conditioning
    )


# --- dtypes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ours", "sdxl", "if_stage_1"])
@torch.no_grad()
def test_bfloat16_runs_and_stays_close(name: str) -> None:
    model, unet2d, image, given = inflate(name)
    expected = model(random_video(image, 4), **given).sample
    half = SpaceTimeUNet.from_unet2d(unet2d.to(torch.bfloat16))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    cast = {
        k: v.bfloat16() if torch.is_tensor(v) and v.is_floating_point() else v
        for k, v in given.items()
    }
    output = half(random_video(image, 4).bfloat16(), **cast).sample
    assert output.dtype == torch.bfloat16
    assert (output.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


@pytest.mark.parametrize("name", ["ours", "sd1", "if_stage_1"])
def test_memory_formats_give_the_same(name: str) -> None:
    """Of the input, of the weights, and in the gradients."""
    model, _, image, given = inflate(name)
    randomise_temporal(model)
    video = random_video(image, 4)
    by_frame = video.transpose(1, 2).contiguous().transpose(1, 2)

    def run(sample: Tensor) -> list[Tensor]:
        model.zero_grad()
        output = model(sample, **given).sample
        output.square().mean().backward()
        return [
            output.detach(),
            *(parameter.grad.clone() for parameter in model.temporal_parameters()),
        ]

    expected = run(video)
    runs = [run(video.contiguous(memory_format=torch.channels_last_3d)), run(by_frame)]
    model.to(memory_format=torch.contiguous_format)
    runs.append(run(video))
    model.to(memory_format=torch.channels_last)
    runs.append(run(video))
    for found in runs:
        for value, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(value, wanted, atol=2e-5, rtol=1e-3)

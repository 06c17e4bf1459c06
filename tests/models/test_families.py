"""Published text-to-image networks as a download lies on disk: real layout, levels and layers; only
widths are tiny.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from lumiere.models import SpaceTimeUNet
from tests.models.zoo import TEXT_DIM, as_video, make_inputs, make_unet2d, randomise_temporal

WIDTHS = (8, 16, 24, 24)
SIMPLE = {
    "in_channels": 3,
    "out_channels": 6,
    "block_out_channels": WIDTHS,
    "down_block_types": ("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": (*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
    "attention_head_dim": 8,
    "cross_attention_dim": 32,
    "encoder_hid_dim": TEXT_DIM,
    "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "resnet_skip_time_act": True,
    "resnet_out_scale_factor": 1.4142,
    "mid_block_scale_factor": 1.4142,
    "act_fn": "gelu",
    "time_embedding_act_fn": "gelu",
}
LATENT = {
    "block_out_channels": WIDTHS,
    "layers_per_block": 2,
    "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    "cross_attention_dim": TEXT_DIM,
    "attention_head_dim": 8,
}
REAL: dict[str, dict[str, Any]] = {
    "stable-diffusion-v1-5": LATENT,
    "stable-diffusion-2-1": LATENT
    | {"attention_head_dim": (1, 2, 3, 3), "use_linear_projection": True, "upcast_attention": True},
    "stable-diffusion-inpainting": LATENT | {"in_channels": 9},
    "stable-diffusion-xl-base-1.0": LATENT
    | {
        "block_out_channels": (8, 16, 24),
        "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
        "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (1, 2, 3),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 12,
    },
    "IF-I-XL-v1.0": SIMPLE | {"layers_per_block": 3},
    "IF-II-L-v1.0": SIMPLE
    | {"in_channels": 6, "layers_per_block": (1, 2, 1, 2), "class_embed_type": "timestep"},
}
NAMES = [*REAL, "ours"]


def download(name: str, folder: Path, variant: str | None = None) -> UNet2DConditionModel:
    """A pipeline's folder as a hub would leave it; returns the network that was stored."""
    if name == "ours":
        unet2d = make_unet2d("ours")
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            unet2d = UNet2DConditionModel(sample_size=16, norm_num_groups=4, **REAL[name]).eval()
    dtype = torch.float16 if variant == "fp16" else torch.float32
    unet2d.to(dtype).save_pretrained(folder / "unet", variant=variant)
    DDPMScheduler().save_pretrained(folder / "scheduler")
    parts = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionPipeline", **parts})
    )
    return unet2d


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_download_is_inflated_exactly(name: str, tmp_path: Path) -> None:
    stored = download(name, tmp_path)
    unet2d = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    image, given = make_inputs(unet2d, size=(8, 16))
    expected = stored(image, **given).sample
    model = SpaceTimeUNet.from_unet2d(unet2d)
    assert len(model.temporal_downsamplers) == len(unet2d.config.block_out_channels) - 1
    output = model(as_video(image, 5), **given).sample
    torch.testing.assert_close(output, as_video(expected, 5), atol=2e-5, rtol=1e-4)

    still = SpaceTimeUNet.from_unet2d(unet2d, temporal_resampling=False)
    video = torch.stack([image, image.flip(0), 2 * image], dim=2)
    frames = [unet2d(frame, **given).sample for frame in video.unbind(2)]
    torch.testing.assert_close(
        still(video, **given).sample, torch.stack(frames, dim=2), atol=2e-5, rtol=1e-4
    )

    randomise_temporal(model)
    moved = video.clone()
    moved[:, :, 0] += 1
    assert (model(moved, **given).sample - model(video, **given).sample)[
        :, :, -1
    ].abs().max() > 1e-7


@pytest.mark.parametrize("name", ["stable-diffusion-v1-5", "IF-II-L-v1.0", "ours"])
@torch.no_grad()
def test_a_download_in_half_precision_is_inflated_exactly(name: str, tmp_path: Path) -> None:
    stored = download(name, tmp_path, variant="fp16").float()
    assert [path.name for path in (tmp_path / "unet").glob("*.safetensors")] == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    half = UNet2DConditionModel.from_pretrained(
        tmp_path, subfolder="unet", variant="fp16", torch_dtype=torch.float16
    )
    model = SpaceTimeUNet.from_unet2d(half)
    assert {value.dtype for value in model.parameters()} == {torch.float16}
    image, given = make_inputs(stored, size=(8, 8))
    output = model.float()(as_video(image, 3), **given).sample
    torch.testing.assert_close(
        output, as_video(stored(image, **given).sample, 3), atol=2e-5, rtol=1e-4
    )

"""A pipeline whose base network works in the latents of a VAE."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from lumiere.diffusion.latents import LatentSpace
from lumiere.diffusion.objective import make_scheduler
from lumiere.models import SpaceTimeUNet
from lumiere.pipelines import LumierePipeline
from tests.pipelines.conftest import WordHashEncoder, shaken, ssr_unet, text_to_image_unet
from tests.pipelines.test_memory import short_of_memory
from tests.pipelines.test_modes import INPUTS, STEPS, VIDEO, box, seed
from tests.pipelines.test_speckle import filtered


@pytest.fixture
def vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=2, sample_size=16,
        shift_factor=0.1, mid_block_add_attention=False,
    ).eval()  # fmt: skip


@pytest.fixture
def latent_pipe(vae: AutoencoderKL) -> LumierePipeline:
    """Pixels 16 x 16 are latents 4 x 8 x 8."""
    torch.manual_seed(0)
    config = text_to_image_unet().config
    unet2d = UNet2DConditionModel.from_config(config, in_channels=4, out_channels=4, sample_size=8)
    unet = shaken(SpaceTimeUNet.from_unet2d(unet2d, conditioning_channels=5, temporal_head_dim=8))
    pipe = LumierePipeline(
        unet, make_scheduler(), WordHashEncoder(max_tokens=6), ssr_unet(), make_scheduler(),
        num_frames=5, ssr_window_size=4, vae=vae,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_speckle_is_taken_out_of_the_pixels(latent_pipe: LumierePipeline) -> None:
    options = {**STEPS, "upscale": False}
    plain = latent_pipe("a cat", generator=seed(), **options).frames
    smooth = latent_pipe("a cat", generator=seed(), spatial_smoothing=40.0, **options).frames
    assert not torch.allclose(smooth, plain, atol=1e-3)
    torch.testing.assert_close(smooth, filtered(plain), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", INPUTS)
def test_every_mode(latent_pipe: LumierePipeline, mode: str) -> None:
    seen: list[tuple[int, ...]] = []
    latent_pipe.unet.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    output = latent_pipe("a cat", generator=seed(), keep_known=True, **INPUTS[mode], **STEPS)
    assert seen[0] == (2, 9, 5, 8, 8)  # <J, C, M>: 4 + 4 + 1
    assert output.base_frames.shape == (1, 5, 3, 16, 16) and output.frames.shape == (
        1,
        5,
        3,
        32,
        32,
    )
    if output.known is not None:
        assert output.known.shape == output.frames.shape and output.known_psnr.isfinite().all()
        where = output.known_mask.bool().expand_as(output.known)
        torch.testing.assert_close(output.frames[where], output.known[where])


def test_c_is_the_latents_of_what_is_given_and_m_where_a_latent_is_known_whole(
    vae: AutoencoderKL,
) -> None:
    space = LatentSpace(vae, frames_per_batch=2)
    mask = torch.ones(1, 1, 5, 16, 16)
    mask[..., 3:7, 4:8] = 0  # rows 3 to 6 touch cells 1 to 3
    known = (VIDEO.transpose(1, 2) * 2 - 1) * mask
    with torch.no_grad():
        c, m = space.condition(known, mask)
    expected = torch.ones(8, 8)
    expected[1:4, 2:4] = 0
    assert torch.equal(m, expected.expand(1, 1, 5, 8, 8)) and torch.equal(c, c * m)
    with torch.no_grad():
        latents = (vae.encode(known[:, :, 3]).latent_dist.mode() - 0.1) * vae.config.scaling_factor
        decoded = vae.decode(latents / vae.config.scaling_factor + 0.1).sample
        back = space.decode(space.encode(known))
    torch.testing.assert_close(c[:, :, 3], latents * expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(back[:, :, 3], decoded.clamp(-1, 1), rtol=0, atol=1e-5)


def test_frames_are_decoded_some_at_a_time(vae: AutoencoderKL) -> None:
    latents, sizes = torch.randn(2, 4, 5, 8, 8, generator=seed()), []
    vae.decoder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    with torch.no_grad():
        results = [LatentSpace(vae, most).decode(latents) for most in (None, 4)]
    assert sizes == [10, 4, 4, 2] and results[0].shape == (2, 3, 5, 16, 16)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-5)


def test_decoding_goes_on_with_half_as_many_frames(vae: AutoencoderKL) -> None:
    latents, sizes = torch.randn(1, 4, 5, 8, 8, generator=seed()), []
    with torch.no_grad():
        whole = LatentSpace(vae, None).decode(latents)
        vae.decoder.register_forward_pre_hook(short_of_memory(2, sizes))
        torch.testing.assert_close(LatentSpace(vae).decode(latents), whole, rtol=0, atol=1e-5)
    assert sizes == [5, 2, 2, 1]


def test_round_trip_sizes_and_source(latent_pipe: LumierePipeline, tmp_path: Path) -> None:
    latent_pipe.save_pretrained(tmp_path)
    loaded = LumierePipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    options = {"video": VIDEO, "mask": box(16, 16), "height": 20, "width": 24, **STEPS}
    made = [each("a cat", generator=seed(), **options).frames for each in (latent_pipe, loaded)]
    torch.testing.assert_close(*made, rtol=0, atol=1e-5)
    assert made[0].shape == (1, 5, 3, 32, 38)
    with pytest.raises(ValueError, match="height, width are 15, 16; allowed: multiples of 2"):
        loaded("a cat", height=15)
    # Nothing is done at strength 0: the source through the VAE and back.
    kept = loaded("a cat", video=VIDEO, strength=0.0, upscale=False, output_type="pt").frames
    with torch.no_grad():
        space = LatentSpace(loaded.vae)
        through = space.decode(space.encode(VIDEO.transpose(1, 2) * 2 - 1))
    torch.testing.assert_close(kept, (through.transpose(1, 2) + 1) / 2, rtol=0, atol=1e-5)


def test_a_vae_that_does_not_fit(pipe: LumierePipeline, vae: AutoencoderKL) -> None:
    with pytest.raises(ValueError, match="vae has 4 latent channels, unet takes 3"):
        LumierePipeline(pipe.unet, pipe.scheduler, vae=vae)

"""Styles in every mode, and blends that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import lumiere.pipelines.styles
from lumiere.pipelines import LumierePipeline
from tests.pipelines.test_files_and_styles import style_weights
from tests.pipelines.test_modes import INPUTS, STEPS, seed

OPTIONS: dict[str, Any] = {"upscale": False, **STEPS}


@pytest.fixture
def blends(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The alpha of every blend that is made."""
    made: list[float] = []
    plain = lumiere.pipelines.styles.blend_style

    def blend_style(original: Any, style: Any, alpha: float) -> dict[str, Tensor]:
        made.append(alpha)
        return plain(original, style, alpha)

    monkeypatch.setattr(lumiere.pipelines.styles, "blend_style", blend_style)
    return made


@pytest.mark.parametrize("mode", INPUTS)
def test_every_mode_is_styled_and_temporal_weights_are_not(
    pipe: LumierePipeline, mode: str
) -> None:
    style = style_weights(pipe)
    pipe.add_style("ink", style)
    spatial = {key: value.clone() for key, value in pipe.unet.unet.state_dict().items()}
    temporal = [parameter.clone() for parameter in pipe.unet.temporal_parameters()]
    seen: list[bool] = []

    def hook(*_: object) -> None:
        half = {key: (value + style[key]) / 2 for key, value in spatial.items()}
        now = pipe.unet.unet.state_dict()
        seen.append(all(torch.allclose(now[key], value) for key, value in half.items()))
        seen.append(all(map(torch.equal, pipe.unet.temporal_parameters(), temporal)))

    plain = pipe("a cat", generator=seed(), **INPUTS[mode], **OPTIONS)
    handle = pipe.unet.register_forward_pre_hook(hook)
    styled = pipe("a cat", style="ink", alpha=0.5, generator=seed(), **INPUTS[mode], **OPTIONS)
    handle.remove()
    assert seen and all(seen) and styled.mode == mode
    assert not torch.allclose(styled.frames, plain.frames, atol=1e-3)
    after = pipe("a cat", generator=seed(), **INPUTS[mode], **OPTIONS)
    assert torch.equal(after.frames, plain.frames)
    if plain.known_psnr is not None:
        torch.testing.assert_close(styled.known, plain.known)


@pytest.mark.parametrize("kind", ["file", "tensors", "finished"])
def test_a_blend_is_made_once(
    pipe: LumierePipeline, tmp_path: Path, blends: list[float], kind: str
) -> None:
    weights: Any = style_weights(pipe)
    if kind == "file":
        save_file(weights, tmp_path / "ink.safetensors")
        weights = tmp_path / "ink.safetensors"
    pipe.add_style("ink", weights, alpha=0.5 if kind == "finished" else 1.0)

    def make() -> Tensor:
        return pipe("a cat", style="ink", alpha=0.5, generator=seed(), **OPTIONS).frames

    first = make()
    pipe("a cat", **OPTIONS)
    assert torch.equal(make(), first) and len(blends) == 1
    pipe.unet.unet.conv_in.weight.data.mul_(1.1)
    other = make()
    assert len(blends) == 2 and (kind == "finished" or not torch.equal(other, first))


def test_another_alpha_or_style_is_another_blend(
    pipe: LumierePipeline, blends: list[float]
) -> None:
    style = style_weights(pipe)
    pipe.add_style("ink", style)
    pipe.add_style("oil", {key: value * 0.9 for key, value in style.items()})
    options = {"generator": None, **OPTIONS}
    made = [
        pipe("a cat", style=name, alpha=alpha, **{**options, "generator": seed()}).frames
        for name, alpha in (("ink", 0.5), ("ink", 0.75), ("oil", 0.75), ("ink", 0.5))
    ]
    assert blends == [0.5, 0.75, 0.75, 0.5] and torch.equal(made[0], made[3])
    assert not torch.equal(made[0], made[1]) and not torch.equal(made[1], made[2])
    style["conv_in.weight"].zero_()  # the user's own tensor
    again = pipe("a cat", style="ink", alpha=0.5, generator=seed(), **OPTIONS).frames
    assert not torch.equal(again, made[0]) and len(blends) == 5


def test_a_blend_is_made_anew_for_another_precision(
    pipe: LumierePipeline, blends: list[float]
) -> None:
    pipe.add_style("ink", style_weights(pipe))
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        pipe.to(dtype)
        pipe("a cat", style="ink", alpha=0.5, generator=seed(), **OPTIONS)
    assert blends == [0.5, 0.5, 0.5]


def test_a_network_of_inference_mode_is_styled(pipe: LumierePipeline, tmp_path: Path) -> None:
    pipe.add_style("ink", style_weights(pipe))
    pipe.save_pretrained(tmp_path)
    options = {"style": "ink", "alpha": 0.5, **OPTIONS}
    with torch.inference_mode():
        loaded = LumierePipeline.from_pretrained(tmp_path)
        loaded.set_progress_bar_config(disable=True)
        inside = loaded("a cat", generator=seed(), **options).frames
    assert all(parameter.is_inference() for parameter in loaded.unet.parameters())
    for each in (loaded, pipe):
        assert torch.equal(each("a cat", generator=seed(), **options).frames, inside)


def test_a_network_that_is_offloaded_weight_by_weight_is_not_styled(pipe: LumierePipeline) -> None:
    pipe.add_style("ink", style_weights(pipe))
    pipe.enable_sequential_cpu_offload(device="cpu")
    with pytest.raises(
        ValueError,
        match=r"style 'ink': .*enable_sequential_cpu_offload.*; use enable_model_cpu_off",
    ):
        pipe("a cat", style="ink", **OPTIONS)


@pytest.mark.parametrize("keep", [0, 4, 1000])
def test_a_style_whose_file_is_broken(pipe: LumierePipeline, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "ink.safetensors"
    save_file(style_weights(pipe), path)
    path.write_bytes(path.read_bytes()[:keep])
    pipe.add_style("ink", path)
    with pytest.raises(
        ValueError, match=r"^.*ink\.safetensors: not a whole safetensors file \(.*\); copy it again"
    ):
        pipe("a cat", style="ink", **OPTIONS)

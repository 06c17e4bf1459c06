"""`lumiere generate --fast`: a distilled network in the place of the base network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lumiere.distilled import DistilledSettings, write_distilled
from lumiere.models import SpaceTimeUNet
from lumiere.pipelines import LumierePipeline
from tests.cli.conftest import Generate

Prepare = Callable[..., Path]


@pytest.fixture
def fast_model(model: Path, tmp_path: Path) -> Prepare:
    """Copy the model, with a distilled network beside it."""

    def prepare(shift: float = 0.01, part: str = "unet", steps: int = 1) -> Path:
        folder, distilled = tmp_path / "outputs" / "pipeline", tmp_path / "outputs" / "distilled"
        shutil.copytree(model, folder)
        unet = SpaceTimeUNet.from_pretrained(model / "unet")
        with torch.no_grad():
            for name, parameter in unet.named_parameters():
                if name.startswith("unet.") == (part == "unet"):
                    parameter.add_(shift)
        unet.save_pretrained(distilled)
        shutil.copytree(model / "scheduler", distilled / "scheduler")
        write_distilled(distilled, DistilledSettings(steps, noise_correlation=0.25))
        return folder

    return prepare


def settings(name: str) -> dict[str, Any]:
    return json.loads(Path(name).read_text(encoding="utf-8"))


def test_a_fast_video_and_the_same_again(generate: Generate, fast_model: Prepare) -> None:
    fast_model()
    common = ("a red fox", "--seed", "3", "--device", "cpu")
    for name, options in (("fast.mp4", ("--fast",)), ("slow.mp4", ())):
        result = generate(*common, *options, "-o", name, with_model=False)
        assert result.exit_code == 0, result.output
    fast, slow = settings("fast.json"), settings("slow.json")
    assert (fast["fast"], fast["steps"], fast["guidance"]) == (True, 1, 1.0)
    assert (slow["fast"], slow["steps"], slow["guidance"]) == (False, 2, 3.0)
    assert (fast["noise_correlation"], slow["noise_correlation"]) == (0.25, 0.0)
    assert fast["model_sha256"] != slow["model_sha256"]
    assert Path("fast.mp4").read_bytes() != Path("slow.mp4").read_bytes()
    result = generate(
        "--from-json", "fast.json", "-o", "again.mp4", "--device", "cpu", with_model=False
    )
    assert result.exit_code == 0 and "will differ" not in result.stderr, result.output
    assert "outputs/distilled" in result.stderr
    assert Path("again.mp4").read_bytes() == Path("fast.mp4").read_bytes()


@pytest.mark.parametrize("has_bf16, dtype", [(True, "bfloat16"), (False, "float32")])
def test_super_resolution_computes_in_bfloat16_where_that_is_fast(
    has_bf16: bool, dtype: str, generate: Generate, fast_model: Prepare,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fast_model()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_bf16})
    common = ("--device", "cpu")
    result = generate("a fox", "--fast", "-o", "fox.mp4", *common, with_model=False)
    assert result.exit_code == 0, result.output
    assert settings("fox.json")["ssr_dtype"] == dtype
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": not has_bf16})
    again = generate("--from-json", "fox.json", "-o", "again.mp4", *common, with_model=False)
    assert again.exit_code == 0 and f"not in {dtype}" in again.stderr, again.output
    plain = generate("a fox", "-o", "plain.mp4", *common, with_model=False)
    assert plain.exit_code == 0 and settings("plain.json")["ssr_dtype"] == "float32"


def test_steps_and_guidance_of_a_sidecar_stay_with_their_kind_of_network(
    generate: Generate, fast_model: Prepare
) -> None:
    folder = fast_model()
    common = ("--device", "cpu", "-o")

    def make(name: str, *options: str) -> str:
        result = generate(*options, *common, f"{name}.mp4", with_model=False)
        assert result.exit_code == 0, result.output
        return result.stderr

    make("slow", "a red fox", "--seed", "3", "--steps", "3", "--negative-prompt", "rain")
    make("fast", "a red fox", "--seed", "3", "--fast")
    note = "left out, because the new options replace it: --steps, --guidance"
    told = make("faster", "--from-json", "slow.json", "--fast")
    assert f"{note}, --negative-prompt\n" in told
    assert note in make("slower", "--from-json", "fast.json", "--model", str(folder))
    for name, network in (("faster", (True, 1, 1.0)), ("slower", (False, 2, 3.0))):
        made = settings(f"{name}.json")
        assert (made["fast"], made["steps"], made["guidance"]) == network
    assert Path("faster.mp4").read_bytes() == Path("fast.mp4").read_bytes()
    told = make("own", "--from-json", "fast.json", "--model", str(folder), "--steps", "3")
    assert "replace it: --guidance" in told and settings("own.json")["steps"] == 3


def test_what_the_model_decides_stays_unasked_through_the_fast_network(
    generate: Generate, fast_model: Prepare
) -> None:
    folder = fast_model()
    pipe = LumierePipeline.from_pretrained(folder)
    pipe.register_to_config(motion_scale=1.6, temporal_smoothing=0.5)
    pipe.save_pretrained(folder)

    def make(name: str, *options: str, other: bool = False) -> tuple[dict[str, Any], str]:
        given = (*options, "--no-upscale", "-o", f"{name}.gif")
        result = generate(*given, with_model=other)
        assert result.exit_code == 0, result.output
        return settings(f"{name}.json"), result.stderr

    for chosen, kept in (((), (1, 0)), (("--motion", "3"), (3, 0))):
        make("a", "a fox", *chosen)
        fast, told = make("b", "--from-json", "a.json", "--fast")
        assert fast["motion"] == (3 if chosen else 1.6) and "--motion" not in told
        assert ("note: motion" in told) == bool(chosen)
        asked = {"motion", "smoothing"} & fast["asked"].keys()
        assert asked == ({"motion"} if chosen else set())
        made, _ = make("c", "--from-json", "b.json", other=True)
        assert (made["motion"], made["smoothing"]) == kept
    # Without `asked`, as in a sidecar of the stage, all may have been chosen.
    content = settings("a.json")
    del content["asked"]
    Path("stage.json").write_text(json.dumps({**content, "motion": 0.5}))
    assert make("d", "--from-json", "stage.json", "--fast")[0]["motion"] == 0.5


@pytest.mark.parametrize("part, exit_code", [("unet", 2), ("temporal", 0)])
def test_styles_fit_a_network_with_the_same_image_model(
    part: str, exit_code: int, generate: Generate, fast_model: Prepare
) -> None:
    folder = fast_model(part=part)
    result = generate(
        "a fox", "--fast", "--style", "ink", "-o", "fox.mp4", "--model", str(folder)
    )  # fmt: skip
    assert result.exit_code == exit_code, result.output
    if exit_code:
        assert "its distilled network has none; leave out --fast" in result.stderr


@pytest.mark.parametrize(
    "options, words",
    [
        (("--steps", "8"), "--steps 8: the distilled network needs 1; leave out --steps or --fast"),
        (("--guidance", "2.5"), "--guidance 2.5: the distilled network needs 1; leave out"),
        (
            ("--negative-prompt", "rain"),
            "cannot avoid anything; leave out --negative-prompt or --fast",
        ),
    ],
)
def test_other_steps_guidance_and_negative_prompts_are_refused(
    options: tuple[str, ...], words: str, generate: Generate, fast_model: Prepare
) -> None:
    fast_model()
    result = generate("a fox", "--fast", *options, "-o", "fox.mp4", with_model=False)
    assert result.exit_code == 2 and words in result.stderr
    assert not Path("fox.mp4").exists()


def test_a_fast_network_is_offered_no_more_steps(generate: Generate, fast_model: Prepare) -> None:
    fast_model()
    result = generate("a fox", "--fast", "--motion", "2", "-o", "fox.mp4", with_model=False)
    assert result.exit_code == 0, result.output
    assert "no step is there; leave out --fast for more steps\n" in result.stderr


def test_a_model_without_a_distilled_network_is_told(generate: Generate) -> None:
    result = generate("a fox", "--fast", "-o", "fox.mp4")
    assert result.exit_code == 2
    assert "has no distilled network; set distil.optim.steps in params.yaml" in result.stderr


@pytest.mark.parametrize("damage", ["steps", "noise", "weights", "layers"])
def test_a_broken_distilled_network_is_told(
    damage: str, generate: Generate, fast_model: Prepare
) -> None:
    distilled = fast_model().parent / "distilled"
    if damage == "steps":
        (distilled / "distilled.json").write_text("{}")
    elif damage == "noise":
        (distilled / "distilled.json").write_text('{"num_inference_steps": 1}')
    elif damage == "weights":
        (distilled / "temporal.safetensors").write_bytes(b"half")
    else:
        unet2d = SpaceTimeUNet.from_pretrained(distilled).unet
        SpaceTimeUNet.from_unet2d(unet2d, temporal_head_dim=8).save_pretrained(distilled)
    result = generate("a fox", "--fast", "-o", "fox.mp4", with_model=False)
    words = {"steps": "num_inference_steps", "noise": "noise_correlation is None"}
    words |= {"weights": "temporal", "layers": "other layers"}
    assert result.exit_code == 2 and "error: --fast: " in result.stderr
    assert words[damage] in result.stderr and len(result.stderr.splitlines()) == 2


def test_a_fast_pipeline_is_saved(fast_model: Prepare, generate: Generate, tmp_path: Path) -> None:
    folder = fast_model()
    pipe = LumierePipeline.from_pretrained(folder)
    pipe.load_distilled(folder.parent / "distilled")
    pipe.save_pretrained(tmp_path / "fast")
    again = LumierePipeline.from_pretrained(tmp_path / "fast")
    assert (again.config.num_inference_steps, again.config.guidance_scale) == (1, 1.0)
    assert again.config.noise_correlation == 0.25  # the one before had 0
    assert again.config.ssr_steps == 1 and list(again.styles) == []  # never more than before
    assert again.config.ssr_window_size == 16  # longer than the training's
    expected = pipe.unet.state_dict()
    assert all(torch.equal(value, expected[n]) for n, value in again.unet.state_dict().items())


def test_a_distilled_network_is_offloaded_as_the_one_before(
    fast_model: Prepare, generate: Generate
) -> None:
    folder = fast_model()
    pipe = LumierePipeline.from_pretrained(folder)
    pipe.enable_model_cpu_offload(device="cpu")
    pipe.load_distilled(folder.parent / "distilled")
    assert pipe._all_hooks[0].model is pipe.unet
    pipe.remove_all_hooks()
    pipe.enable_sequential_cpu_offload(device="cpu")
    with pytest.raises(ValueError, match="unet cannot be replaced after enable_sequential"):
        pipe.load_distilled(folder.parent / "distilled")


def test_a_pipeline_keeps_its_styles_if_nothing_is_loaded(
    fast_model: Prepare, generate: Generate
) -> None:
    folder = fast_model()
    pipe = LumierePipeline.from_pretrained(folder)
    shutil.rmtree(folder.parent / "distilled" / "scheduler")
    unet = pipe.unet
    with pytest.raises(ValueError, match=r"scheduler_config\.json: no such file"):
        pipe.load_distilled(folder.parent / "distilled")
    assert list(pipe.styles) == ["ink"] and pipe.unet is unet

"""LoRA by diffusers' methods: of the image model, and of the temporal layers (motion LoRA)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.utils import convert_state_dict_to_diffusers
from peft import IA3Config, LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lumiere.config import OptimConfig
from lumiere.models import SpaceTimeUNet
from lumiere.models.rollback import tuner_layers
from lumiere.pipelines import LumierePipeline
from lumiere.training.loop import train
from lumiere.training.lora import MOTION_LAYERS, add_motion_lora
from tests.models.zoo import CONFIGS, TINY, make_inputs, randomise_temporal
from tests.pipelines.test_diffusers_habits import BASE
from tests.pipelines.test_modes import seed

RANK, ALPHA = 2, 6.0  # a scale of 3


def image_network() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**{**TINY, **CONFIGS["sd1"]}).eval()


def shake_adapters(network: nn.Module, name: str = "default") -> None:
    """B starts at zero; give it values."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if f"lora_B.{name}" in key:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def adapted_image_network(form: str) -> UNet2DConditionModel:
    unet = image_network()
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    if form != "kohya":  # diffusers does not read convolutions of that form
        targets.append("conv1")
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets))
    shake_adapters(unet)
    return unet


def write_adapters(unet: UNet2DConditionModel, folder: Path, form: str) -> Path:
    """Write a file as peft, diffusers' training scripts or kohya's scripts do."""
    layers = get_peft_model_state_dict(unet)
    settings = {**unet.peft_config["default"].to_dict()}
    settings["target_modules"] = sorted(settings["target_modules"])
    if form == "kohya":
        state = {}
        for key, value in layers.items():
            layer, factor = key.split(".lora_")
            name = f"lora_unet_{layer.replace('.', '_')}"
            direction = "down" if factor.startswith("A") else "up"
            state[f"{name}.lora_{direction}.weight"] = value
            state[f"{name}.alpha"] = torch.tensor(ALPHA)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, folder / "pytorch_lora_weights.safetensors")
        return folder
    if form == "script":
        layers = convert_state_dict_to_diffusers(layers)
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=layers, unet_lora_adapter_metadata=settings
    )
    return folder


def pipeline_of(unet2d: UNet2DConditionModel, pipe: LumierePipeline) -> LumierePipeline:
    return LumierePipeline(SpaceTimeUNet.from_unet2d(unet2d), pipe.scheduler, num_frames=2)


@torch.no_grad()
@pytest.mark.parametrize("form", ["peft", "script", "kohya"])
def test_adapters_of_an_image_model_act_as_in_diffusers(
    pipe: LumierePipeline, tmp_path: Path, form: str
) -> None:
    adapted = adapted_image_network(form)
    image, given = make_inputs(adapted)
    expected = adapted(image, **given).sample
    inflated = pipeline_of(image_network(), pipe)
    plain = inflated.unet(image.unsqueeze(2), **given).sample[:, :, 0]
    assert not torch.allclose(plain, expected, atol=1e-2)
    inflated.load_lora_weights(write_adapters(adapted, tmp_path, form), adapter_name="a")
    made = inflated.unet(image.unsqueeze(2), **given).sample[:, :, 0]
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    # By weight, fused, and taken away again.
    inflated.set_adapters("a", 0.5)
    adapted.set_adapters("default", 0.5)
    half = inflated.unet(image.unsqueeze(2), **given).sample[:, :, 0]
    torch.testing.assert_close(half, adapted(image, **given).sample, rtol=1e-4, atol=1e-5)
    inflated.fuse_lora()
    fused = inflated.unet(image.unsqueeze(2), **given).sample[:, :, 0]
    torch.testing.assert_close(fused, half, rtol=1e-4, atol=1e-5)
    inflated.unfuse_lora()
    inflated.unload_lora_weights()
    again = inflated.unet(image.unsqueeze(2), **given).sample[:, :, 0]
    torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_patterns_of_a_file_match_the_same_layers_here(
    pipe: LumierePipeline, tmp_path: Path
) -> None:
    # Without its ^, the pattern would match transformer_blocks.0 in every block.
    first_blocks = r"^\w+_blocks\.0\..*to_q"
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=["to_q", "to_v"],
        alpha_pattern={first_blocks: 20.0},
    )
    adapted = image_network()
    adapted.add_adapter(config)
    shake_adapters(adapted)
    scales = {}
    for name, module in adapted.named_modules():
        if hasattr(module, "scaling"):
            scales[f"unet.{name}"] = module.scaling["default"]
    queries = {scale for name, scale in scales.items() if name.endswith("to_q")}
    assert queries == {ALPHA / RANK, 20.0 / RANK}
    inflated = pipeline_of(image_network(), pipe)
    inflated.load_lora_weights(write_adapters(adapted, tmp_path / "image", "peft"))
    inflated.unet.save_lora_adapter(tmp_path / "own", "default_0")
    again = pipeline_of(image_network(), pipe)
    again.load_lora_weights(tmp_path / "own")
    image, given = make_inputs(adapted)
    expected = adapted(image, **given).sample
    for loaded in (inflated.unet, again.unet):
        own = {
            name: module.scaling["default_0"]
            for name, module in loaded.named_modules()
            if hasattr(module, "scaling")
        }
        assert own == scales
        made = loaded(image.unsqueeze(2), **given).sample[:, :, 0]
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_loaded(pipe: LumierePipeline, tmp_path: Path) -> None:
    factor = torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"layer 'unet\.nowhere', which this network does not"):
        pipe.load_lora_weights({"unet.nowhere.lora_A.weight": factor})
    layer = "unet.temporal_upsamplers.0.conv"
    with pytest.raises(ValueError, match=r"'temporal_upsamplers\.0\.conv' takes no adapter"):
        pipe.load_lora_weights({f"{layer}.lora_A.weight": factor, f"{layer}.lora_B.weight": factor})
    with pytest.raises(ValueError, match="takes no adapter; leave it out of target_modules"):
        pipe.unet.add_adapter(LoraConfig(target_modules=r"temporal_upsamplers\..*conv"))
    with pytest.raises(ValueError, match="adapter 'zoom'; allowed: none is loaded"):
        pipe.unet.set_adapters("zoom")


UPSAMPLERS = r"temporal_upsamplers\..*conv"
TAKES_NONE = r"layer 'temporal_upsamplers\.0\.conv' takes no adapter"
# Each with what the error says.
REFUSED: dict[str, tuple[Any, str]] = {
    "upsamplers": (LoraConfig(target_modules=UPSAMPLERS), TAKES_NONE),
    "some of them": (LoraConfig(target_modules=rf"{UPSAMPLERS}|.*to_[qv]"), TAKES_NONE),
    "no match": (LoraConfig(target_modules=["nothing"]), "Target modules {'nothing'} not found"),
    "no config": ({"r": 2}, "adapter_config should be an instance of PeftConfig"),
    "other adapters": (IA3Config(target_modules=UPSAMPLERS, feedforward_modules=[]), TAKES_NONE),
    "taken name": (LoraConfig(r=2, target_modules=["to_q"]), "name neon already exists"),
}


@torch.no_grad()
@pytest.mark.parametrize("refused", REFUSED)
@pytest.mark.parametrize("fused", [False, True], ids=["active", "fused"])
def test_refused_adapters_leave_those_in_use_alone(
    pipe: LumierePipeline, refused: str, fused: bool
) -> None:
    network = pipe.unet
    for name, layers in (("ink", ["to_q", "conv1"]), ("neon", ["to_k", "conv1"])):
        network.add_adapter(LoraConfig(r=2, target_modules=layers), name)
        shake_adapters(network, name)
    network.set_adapters(["ink", "neon"], [0.5, 0.7])
    for key, parameter in network.named_parameters():
        parameter.requires_grad_("ink" in key)
    if fused:
        network.fuse_lora()
    expected = pipe("a cat", generator=seed(), **BASE).frames
    gradients = {key: each.requires_grad for key, each in network.named_parameters()}
    merged = [list(layer.merged_adapters) for layer in tuner_layers(network)]
    assert any(merged) == fused
    config, message = REFUSED[refused]
    with pytest.raises(ValueError, match=message):
        network.add_adapter(config, "neon" if refused == "taken name" else "zoom")
    assert merged == [list(layer.merged_adapters) for layer in tuner_layers(network)]
    made = pipe("a cat", generator=seed(), **BASE).frames
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5 if fused else 0)
    assert pipe.get_active_adapters() == ["ink", "neon"]
    assert pipe.get_list_adapters() == {"unet": ["ink", "neon"]}
    assert gradients == {key: each.requires_grad for key, each in network.named_parameters()}
    if fused:
        network.unfuse_lora()
        made = pipe("a cat", generator=seed(), **BASE).frames
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), "zoom")


@pytest.mark.parametrize("refused", [name for name in REFUSED if name != "taken name"])
def test_refused_adapters_leave_a_plain_network(
    pipe: LumierePipeline, refused: str, tmp_path: Path
) -> None:
    gradients = {key: each.requires_grad for key, each in pipe.unet.named_parameters()}
    config, message = REFUSED[refused]
    with pytest.raises(ValueError, match=message):
        pipe.unet.add_adapter(config)
    assert gradients == {key: each.requires_grad for key, each in pipe.unet.named_parameters()}
    pipe.unet.save_pretrained(tmp_path)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    assert pipe.get_list_adapters() == {"unet": ["default"]}


def load_a_file_that_does_not_fit(pipe: LumierePipeline) -> None:
    layer = next(name for name, _ in pipe.unet.named_modules() if name.endswith("to_k"))
    unfit = {f"{layer}.lora_A.weight": torch.ones(2, 3), f"{layer}.lora_B.weight": torch.ones(5, 2)}
    with pytest.raises(RuntimeError, match="size mismatch"):
        pipe.load_lora_weights(unfit, adapter_name="zoom")


@torch.no_grad()
def test_a_file_that_does_not_fit_leaves_adapters_in_use_alone(pipe: LumierePipeline) -> None:
    for name in ("ink", "neon"):
        pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), name)
        shake_adapters(pipe.unet, name)
    pipe.set_adapters(["ink", "neon"], [0.5, 0.7])
    expected = pipe("a cat", generator=seed(), **BASE).frames
    load_a_file_that_does_not_fit(pipe)
    assert torch.equal(pipe("a cat", generator=seed(), **BASE).frames, expected)
    assert pipe.get_active_adapters() == ["ink", "neon"]


def hooks_of(pipe: LumierePipeline) -> dict[str, Any]:
    """The hooks of accelerate by component and layer."""
    hooks = {}
    for component in ("unet", "ssr_unet"):
        for name, module in getattr(pipe, component).named_modules():
            if hasattr(module, "_hf_hook"):
                hooks[f"{component}.{name}"] = module._hf_hook
    return hooks


@torch.no_grad()
@pytest.mark.parametrize("offload", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_a_file_that_does_not_fit_leaves_offloading_alone(
    pipe: LumierePipeline, offload: str
) -> None:
    expected = pipe("a cat", generator=seed(), **BASE).frames
    getattr(pipe, offload)(device="cpu")
    hooks = hooks_of(pipe)
    stored = {key: value.device for key, value in pipe.ssr_unet.named_parameters()}
    assert {"unet.", "ssr_unet."} <= hooks.keys()
    load_a_file_that_does_not_fit(pipe)
    assert hooks_of(pipe) == hooks
    assert stored == {key: value.device for key, value in pipe.ssr_unet.named_parameters()}
    if offload == "enable_model_cpu_offload":  # accelerate's other one needs a GPU to compute
        assert torch.equal(pipe("a cat", generator=seed(), **BASE).frames, expected)


def test_fused_projections_and_adapters_exclude_each_other(
    pipe: LumierePipeline, tmp_path: Path
) -> None:
    """A fused product reads plain weights, so adapters and styles would do nothing."""
    pipe.add_style("ink", pipe.unet.unet.state_dict())
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    pipe.unet.save_lora_adapter(tmp_path / "lora")
    with pytest.raises(ValueError, match=r"attention has adapters, .*; call unload_lora\(\) first"):
        pipe.unet.fuse_qkv_projections()
    pipe.unload_lora_weights()
    pipe.unet.fuse_qkv_projections()
    for add in (
        lambda: pipe.load_lora_weights(tmp_path / "lora"),
        lambda: pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"])),
        lambda: pipe.unet.add_adapter(IA3Config(target_modules=["to_k"], feedforward_modules=[])),
    ):
        with pytest.raises(ValueError, match=r"would do nothing after fuse_qkv_projections\(\)"):
            add()
    with pytest.raises(ValueError, match=r"style 'ink': .* has fused projections, which a style"):
        pipe("a cat", style="ink", **BASE)
    add_motion_lora(pipe.unet, 2)  # not of the fused layers
    pipe.unload_lora_weights()
    pipe.unet.unfuse_qkv_projections()
    pipe.load_lora_weights(tmp_path / "lora")


@torch.no_grad()
@pytest.mark.parametrize("fused_first", [True, False])
def test_queries_of_the_text_take_adapters_beside_fused_projections(fused_first: bool) -> None:
    """The product of attention to the text is that of keys and values."""
    network = SpaceTimeUNet.from_unet2d(image_network())
    image, given = make_inputs(network.unet)

    def adapt(network: SpaceTimeUNet) -> None:
        torch.manual_seed(3)
        network.add_adapter(LoraConfig(r=2, target_modules=r".*attn2\.to_q"))
        shake_adapters(network)

    plain = network(image.unsqueeze(2), **given).sample
    adapted = SpaceTimeUNet.from_unet2d(image_network())
    adapt(adapted)
    expected = adapted(image.unsqueeze(2), **given).sample
    if fused_first:
        network.fuse_qkv_projections()
        adapt(network)
    else:
        adapt(network)
        network.fuse_qkv_projections()
    made = network(image.unsqueeze(2), **given).sample
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(made, plain, atol=1e-3)


def test_adapters_that_could_not_be_used_later(pipe: LumierePipeline, tmp_path: Path) -> None:
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(ValueError, match="safe_serialization is False; adapters are stored as"):
        pipe.unet.save_lora_adapter(tmp_path, safe_serialization=False)
    assert not list(tmp_path.iterdir())
    pipe.unet.save_lora_adapter(tmp_path)
    pipe.unload_lora_weights()
    pipe.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    for add in (
        lambda: pipe.load_lora_weights(tmp_path),
        lambda: pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"])),
    ):
        with pytest.raises(
            ValueError, match=r"after enable_layerwise_casting\(\); add them before"
        ):
            add()


def test_an_adapter_never_writes_a_folder_that_cannot_be_loaded(
    pipe: LumierePipeline, tmp_path: Path
) -> None:
    pipe.add_style("ink", pipe.unet.unet.state_dict())
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "qkv"]))
    for save in (pipe.save_pretrained, pipe.unet.save_pretrained, pipe.unet.save_temporal):
        with pytest.raises(ValueError, match=r"has adapters or fused .* then call unload_lora\(\)"):
            save(tmp_path / "saved")
        assert not list(tmp_path.rglob("*.safetensors"))
    with pytest.raises(ValueError, match="has adapters, which a style would replace"):
        pipe("a cat", style="ink", **BASE)
    shake_adapters(pipe.unet)
    adapted = pipe("a cat", generator=seed(), **BASE).frames
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "saved")
    loaded = LumierePipeline.from_pretrained(tmp_path / "saved")
    made = loaded("a cat", generator=seed(), **BASE).frames
    torch.testing.assert_close(made, adapted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "source, message",
    [
        ("motions/drive", "motions/drive: neither a folder or a file nor a hub name"),
        ("a/b/c", "a/b/c: no such folder or file; expected a folder with pytorch_lora_weights"),
        ("empty", "empty: no adapters can be read from this folder .*weight_name chooses the file"),
        ("torn.safetensors", "torn.safetensors: no adapters can be read from this file"),
        (3, "adapters are given as a int; expected a folder with pytorch_lora_weights"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(
    pipe: LumierePipeline, source: Any, message: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    for load in (pipe.load_lora_weights, pipe.unet.load_lora_adapter):
        with pytest.raises(ValueError, match=message):
            load(source)
    assert not pipe.get_active_adapters()


@torch.no_grad()
def test_adapters_are_saved_by_the_pipelines_method(pipe: LumierePipeline, tmp_path: Path) -> None:
    pipe.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["to_q"]), "default")
    shake_adapters(pipe.unet)
    expected = pipe("a cat", generator=seed(), **BASE).frames
    layers = get_peft_model_state_dict(pipe.unet)
    settings = pipe.unet.peft_config["default"].to_dict()
    settings["target_modules"] = sorted(settings["target_modules"])
    for refused in ({"safe_serialization": False}, {"text_encoder_lora_layers": layers}):
        with pytest.raises(ValueError, match=r"leave (it|them) out"):
            LumierePipeline.save_lora_weights(tmp_path, unet_lora_layers=layers, **refused)
    with pytest.raises(ValueError, match=r"weight_name is 'a\.bin'; allowed: a name of \.safetens"):
        LumierePipeline.save_lora_weights(tmp_path, unet_lora_layers=layers, weight_name="a.bin")
    LumierePipeline.save_lora_weights(tmp_path, unet_lora_layers=layers, is_main_process=False)
    assert not any(tmp_path.iterdir())
    name: Any = Path("ink.safetensors")
    LumierePipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=layers,
        weight_name=name,
        unet_lora_adapter_metadata=settings,
    )
    pipe.unload_lora_weights()
    pipe.load_lora_weights(tmp_path, weight_name="ink.safetensors")
    assert torch.equal(pipe("a cat", generator=seed(), **BASE).frames, expected)


@torch.no_grad()
def test_fused_adapters_come_out_as_they_went_in(pipe: LumierePipeline) -> None:
    def call() -> Tensor:
        return pipe("a cat", generator=seed(), **BASE).frames

    with pytest.raises(ValueError, match="fuse_lora: there are no adapters; load some"):
        pipe.fuse_lora()
    plain = call()
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=6.0, target_modules=["to_q", "conv1"]), "a")
    shake_adapters(pipe.unet, "a")
    whole = call()
    pipe.set_adapters("a", 0.5)
    half = call()
    pipe.set_adapters("a", 1.0)
    pipe.fuse_lora(lora_scale=0.5)
    torch.testing.assert_close(call(), half, rtol=0, atol=1e-5)
    for change in (lambda: pipe.set_adapters("a", 0.1), lambda: pipe.fuse_lora(lora_scale=0.5)):
        with pytest.raises(ValueError, match=r"adapters are fused; call unfuse_lora\(\) first"):
            change()
    pipe.fuse_lora()  # changes nothing
    pipe.unfuse_lora()
    torch.testing.assert_close(call(), whole, rtol=0, atol=1e-5)
    pipe.unload_lora_weights()
    torch.testing.assert_close(call(), plain, rtol=0, atol=1e-5)


@torch.no_grad()
def test_an_adapter_that_was_deleted_while_fused_does_not_come_back(pipe: LumierePipeline) -> None:
    for name in ("kept", "deleted"):
        pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=2.0, target_modules=["to_q"]), name)
        shake_adapters(pipe.unet, name)
    pipe.fuse_lora(adapter_names=["kept"])
    pipe.delete_adapters("deleted")
    pipe.unfuse_lora()
    layers = [module for module in pipe.unet.modules() if hasattr(module, "scale_layer")]
    assert layers and all(list(layer.scaling) == ["kept"] for layer in layers)
    pipe.set_adapters("kept", 0.5)
    assert all(layer.scaling["kept"] == 0.5 for layer in layers)


# --- the weight of adapters in one call -------------------------------------------------------------


@pytest.mark.parametrize(
    "layers", [["to_q", "to_v", "conv1"], MOTION_LAYERS], ids=["image", "motion"]
)
def test_a_call_weighs_adapters(pipe: LumierePipeline, layers: Any) -> None:
    plain = pipe("a cat", generator=seed(), **BASE).frames
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=6.0, target_modules=layers), "a")
    shake_adapters(pipe.unet, "a")
    pipe.set_adapters("a", 0.8)

    def call(scale: float | None = None, **options: Any) -> Tensor:
        if scale is not None:
            options["cross_attention_kwargs"] = {"scale": scale}
        return pipe("a cat", generator=seed(), **options, **BASE).frames

    whole = call()
    assert torch.equal(call(0.0), plain) and not torch.allclose(whole, plain, atol=1e-3)
    assert torch.equal(call(1), whole) and torch.equal(call(), whole)  # 0 leaves no trace
    half = call(0.5)

    def weigh(pipe: LumierePipeline, *_: Any) -> None:
        pipe.set_adapters("a", 0.0)

    cut = call(0.5, callback_on_step_end=weigh)
    pipe.set_adapters("a", 0.4)
    assert torch.equal(call(), half) and not torch.equal(cut, half)


def test_scales_that_would_not_act(pipe: LumierePipeline) -> None:
    pipe.unet.forward = None
    for given, message in (
        (
            {"scale": 0.5},
            r"scale is 0\.5, but the network has no LoRA adapters that are switched on",
        ),
        ({"scale": "0.5"}, r"scale is '0\.5'; allowed: a finite number"),
        (
            {"ip_adapter_masks": []},
            "ip_adapter_masks.* which weighs LoRA adapters, and no other key",
        ),
        (0.5, r'cross_attention_kwargs is 0\.5; allowed: {"scale": 0\.5}'),
    ):
        with pytest.raises(ValueError, match=message):
            pipe("a cat", cross_attention_kwargs=given, **BASE)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    pipe.disable_lora()
    with pytest.raises(ValueError, match="no LoRA adapters that are switched on and not fused"):
        pipe("a cat", cross_attention_kwargs={"scale": 0.5}, **BASE)
    pipe.enable_lora()
    pipe.fuse_lora()
    with pytest.raises(ValueError, match="no LoRA adapters that are switched on and not fused"):
        pipe("a cat", cross_attention_kwargs={"scale": 0.5}, **BASE)


# --- attention, by diffusers' methods ---------------------------------------------------------------


@torch.no_grad()
def test_attention_processors_and_fused_projections(tmp_path: Path) -> None:
    unet2d = image_network()
    image, given = make_inputs(unet2d)
    inflated = SpaceTimeUNet.from_unet2d(unet2d)
    expected = inflated(image.unsqueeze(2), **given).sample
    assert set(inflated.attn_processors) == {f"unet.{key}" for key in unet2d.attn_processors}
    inflated.set_default_attn_processor()
    torch.testing.assert_close(inflated(image.unsqueeze(2), **given).sample, expected)
    with pytest.raises(ValueError, match="number of processors 0 does not match"):
        inflated.set_attn_processor({})
    inflated.fuse_qkv_projections()
    assert any("to_qkv" in key for key in inflated.state_dict())
    torch.testing.assert_close(
        inflated(image.unsqueeze(2), **given).sample, expected, rtol=1e-4, atol=1e-5
    )
    inflated.fuse_qkv_projections()  # once more
    inflated.unfuse_qkv_projections()
    torch.testing.assert_close(inflated(image.unsqueeze(2), **given).sample, expected)
    inflated.unfuse_qkv_projections()
    inflated.save_pretrained(tmp_path)


ENDS_FUSING = {
    "diffusers' own": lambda unet: unet.unet.unfuse_qkv_projections(),
    "default processors": lambda unet: unet.set_default_attn_processor(),
    "own processors": lambda unet: unet.set_attn_processor(AttnProcessor()),
}


@torch.no_grad()
@pytest.mark.parametrize("end", ENDS_FUSING)
def test_projections_that_other_processors_compute_are_not_fused(
    pipe: LumierePipeline, end: str, tmp_path: Path
) -> None:
    network = pipe.unet
    state = network.unet.state_dict()
    pipe.add_style("ink", {key: value * 1.1 for key, value in state.items()})
    styled = pipe("a cat", style="ink", generator=seed(), **BASE).frames
    for change in ("adapter", "style", "save", "unfuse"):
        network.unet.fuse_qkv_projections()
        ENDS_FUSING[end](network)
        if change == "adapter":
            network.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
            network.unload_lora()
        elif change == "style":
            made = pipe("a cat", style="ink", generator=seed(), **BASE).frames
            torch.testing.assert_close(made, styled, rtol=0, atol=1e-4)
        elif change == "save":
            network.save_pretrained(tmp_path / "saved")
            saved = SpaceTimeUNet.from_pretrained(tmp_path / "saved").state_dict()
            assert saved.keys() == network.state_dict().keys()
        else:
            network.unfuse_qkv_projections()
    assert not any("to_qkv" in key or "to_kv" in key for key in network.state_dict())
    network.save_pretrained(tmp_path)
    network.unet.unfuse_qkv_projections()  # has nothing to do


@torch.no_grad()
def test_projections_fused_twice_by_diffusers_come_apart() -> None:
    inflated = SpaceTimeUNet.from_unet2d(image_network())
    image, given = make_inputs(inflated.unet)
    expected = inflated(image.unsqueeze(2), **given).sample
    for _ in range(2):
        inflated.unet.fuse_qkv_projections()
    inflated.unfuse_qkv_projections()
    torch.testing.assert_close(inflated(image.unsqueeze(2), **given).sample, expected)


# --- motion -----------------------------------------------------------------------------------------


MOTION_CONFIG = OptimConfig(
    steps=60,
    batch_size=1,
    warmup_steps=1,
    learning_rate=3e-2,
    checkpoint_every=100,
    validate_every=100,
    ema_decay=0.0,
)


@dataclass
class MotionTask:
    """Learn one video by its velocity, with whatever parameters need a gradient."""

    network: SpaceTimeUNet
    config: OptimConfig = MOTION_CONFIG
    name: str = "motion"

    def example(self, position: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(position)
        return {"noise": torch.randn(2, 5, 8, 8, generator=generator)}

    def held_out(self) -> int:
        return 0

    def validation_example(self, i: int) -> dict[str, Tensor]:
        raise NotImplementedError

    def losses(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        output = network(batch["noise"], torch.tensor(500), torch.zeros(1, 3, 8)).sample
        drift = torch.linspace(-1, 1, 5).view(1, 1, 5, 1, 1)
        return (output - drift).square().mean((1, 2, 3, 4))

    def batches_of_each_shape(self, batch_size: int) -> list[dict[str, Tensor]]:
        return []

    def flops(self, batch: dict[str, Tensor]) -> int:
        return 0


def motion_network() -> SpaceTimeUNet:
    torch.manual_seed(0)
    unet2d = UNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=2, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=4,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=8,
        attention_head_dim=2,
    )  # fmt: skip
    network = SpaceTimeUNet.from_unet2d(unet2d, temporal_head_dim=8)
    randomise_temporal(network)
    return network


@pytest.fixture(scope="module")
def motions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A motion LoRA that the loop trained on a frozen network, its file, and what it gave."""
    folder = tmp_path_factory.mktemp("motion")
    network = motion_network()
    before = {name: value.clone() for name, value in network.named_parameters()}
    torch.manual_seed(1)
    add_motion_lora(network, 2)
    task = MotionTask(network)
    batch = {"noise": torch.randn(1, 2, 5, 8, 8, generator=seed())}
    with torch.no_grad():
        untrained = float(task.losses(network, batch))
    train(task, folder / "scratch")
    network.eval().save_lora_adapter(folder / "drift", "motion")
    with torch.no_grad():
        output = network(batch["noise"], torch.tensor(500), torch.zeros(1, 3, 8)).sample
        trained = float(task.losses(network, batch))
    return {
        "folder": folder / "drift", "before": before, "network": network, "batch": batch,
        "losses": (untrained, trained), "output": output,
    }  # fmt: skip


def test_the_loop_trains_adapters_of_a_frozen_network(motions: dict[str, Any]) -> None:
    untrained, trained = motions["losses"]
    assert trained < 0.9 * untrained
    for name, parameter in motions["network"].named_parameters():
        if "lora_" in name:
            assert not name.startswith("unet.")
            continue
        plain = name.replace(".base_layer", "")
        assert torch.equal(parameter, motions["before"][plain]) and not parameter.requires_grad
    kept = load_file(motions["folder"] / "pytorch_lora_weights.safetensors")
    stems = {key.split(".")[0] for key in kept}
    assert stems == {"down_inflations", "mid_inflation", "up_inflations"}
    size = sum(value.numel() for value in kept.values())
    assert size < 0.2 * sum(value.numel() for value in motions["before"].values())


@torch.no_grad()
def test_a_motion_is_loaded_and_blended_by_weight(
    motions: dict[str, Any], pipe: LumierePipeline
) -> None:
    loaded = LumierePipeline(motion_network().eval(), pipe.scheduler, num_frames=5)
    call = (motions["batch"]["noise"], torch.tensor(500), torch.zeros(1, 3, 8))
    plain = loaded.unet(*call).sample
    loaded.load_lora_weights(motions["folder"], adapter_name="drift")
    torch.testing.assert_close(loaded.unet(*call).sample, motions["output"])
    other = {
        key: -value if "lora_B" in key else value
        for key, value in load_file(motions["folder"] / "pytorch_lora_weights.safetensors").items()
    }
    loaded.load_lora_weights(other, adapter_name="back")
    assert loaded.get_list_adapters() == {"unet": ["drift", "back"]}
    loaded.set_adapters(["drift", "back"], [0.5, 0.5])  # they cancel out
    torch.testing.assert_close(loaded.unet(*call).sample, plain, rtol=1e-4, atol=1e-5)
    loaded.set_adapters(["drift", "back"], [0.8, 0.2])
    assert not torch.allclose(loaded.unet(*call).sample, plain, atol=1e-4)
    states = {"prompt_embeds": torch.zeros(1, 3, 8), "guidance_scale": 1.0, "output_type": "latent"}
    loaded.set_progress_bar_config(disable=True)
    assert loaded(num_inference_steps=1, **states).frames.isfinite().all()
    loaded.unload_lora_weights()
    torch.testing.assert_close(loaded.unet(*call).sample, plain)

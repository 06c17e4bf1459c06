"""`lumiere inspect`: what is counted on meta tensors is what a real run does, and the tables say
it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn
from typer.testing import CliRunner

from lumiere.cli.app import app
from lumiere.config import (
    GenerateConfig,
    LaunchConfig,
    OptimConfig,
    Params,
    PrepareT2IConfig,
    TrainSSRConfig,
)
from lumiere.inspection.meter import LiveBytes, StandIn, measure
from lumiere.inspection.networks import Workload, stored_workloads, workloads
from lumiere.inspection.plan import optimizer_bytes, plan
from lumiere.inspection.summary import as_text, fits
from lumiere.models import SpaceTimeUNet, lean
from lumiere.models.unet_builders import build_ssr_unet, build_text_to_image_unet
from lumiere.training import meta_shapes
from lumiere.training.meta_shapes import MetaShapes
from lumiere.training.optimizer import make_optimizer
from tests.conftest import REPOSITORY

TEXT = (5, 32)
FRAMES, SIZE = 4, 8


def make_workload(device: str, **optim: Any) -> Workload:
    """A small conditioned Space-Time U-Net; heads are 16 wide, since a CPU pads narrower ones."""
    with torch.device(device), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image_model = build_text_to_image_unet(SIZE, (64, 128), 1, TEXT[1])
        config = {
            key: value for key, value in image_model.config.items() if not key.startswith("_")
        }
        network = SpaceTimeUNet(unet2d_config=config, conditioning_channels=4).train()
    shape = (7, FRAMES, SIZE, SIZE)
    return Workload("base", network, shape, TEXT, OptimConfig(**optim), shape, 3)


@pytest.fixture
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off the plans of the layers for a CPU, which the meta device does not use."""
    monkeypatch.setattr(lean, "FEW_FRAMES", 0)
    monkeypatch.setattr(lean, "keeps_little", lambda *tensors: False)


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_meta_step_costs_what_a_real_one_does(checkpointing: bool) -> None:
    costs = []
    for device in ("meta", "cpu"):
        workload = make_workload(device)
        workload.network.set_gradient_checkpointing(checkpointing)
        run, inputs = workload.loss(2)
        costs.append(measure(workload.network, run, device_type="cpu", inputs=inputs))
    meta, real = costs
    assert (meta.flops_forward, meta.flops) == (real.flops_forward, real.flops)
    assert meta.activation_bytes == pytest.approx(real.activation_bytes, rel=0.03)
    assert meta.saved_bytes == pytest.approx(real.saved_bytes, rel=0.03)


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_what_is_left_for_the_backward_pass_is_what_autograd_saves() -> None:
    workload = make_workload("cpu")
    run, _ = workload.loss(2)
    weights = {tensor.untyped_storage().data_ptr() for tensor in workload.network.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = run()  # the graph keeps what was saved, so no address is used twice
    meta = make_workload("meta")
    run, inputs = meta.loss(2)
    cost = measure(meta.network, run, device_type="cpu", inputs=inputs)
    assert loss.requires_grad and cost.saved_bytes == pytest.approx(sum(saved.values()), rel=0.03)


def test_live_bytes_follow_a_tensor_from_its_making_to_its_end() -> None:
    known = torch.zeros(1000, device="meta")
    with LiveBytes([known]) as live:
        kept = known + 1
        view = kept[:10]
        assert live.now == 4000
        del kept
        assert live.now == 4000
        del view
        assert live.now == 0
        known.add_(1)
    assert (live.now, live.peak) == (0, 4000)


def test_remembered_shapes_are_those_that_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_shapes, "_outputs", {})
    matrix = torch.zeros(4, 6, device="meta")
    whole = torch.zeros(4, 6, device="meta", dtype=torch.int64)

    def made() -> list[torch.Tensor]:
        values, indices = matrix.topk(2)
        # 1, 1.0 and True are equal, but the first and the last leave whole numbers whole.
        sums = [whole + 1, whole + 1.0, whole + True]
        # A whole number divided becomes one of the default dtype.
        try:
            for dtype in (torch.float64, torch.float32):
                torch.set_default_dtype(dtype)
                sums.append(whole / 2)
        finally:
            torch.set_default_dtype(torch.float32)
        # Arguments by name; memory that is not in order; tensors with numbers.
        others = [matrix.T + 1, matrix.sum(0, keepdim=True), torch.tensor([1, 0]).nonzero()]
        return [*sums, *others, torch.tensor([1, 1]).nonzero(), values, indices]

    def layouts() -> list[Any]:
        return [(each.shape, each.stride(), each.dtype, each.device) for each in made()]

    expected = layouts()
    with MetaShapes():
        assert layouts() == expected
        known = len(meta_shapes._outputs)
        assert layouts() == expected and len(meta_shapes._outputs) == known >= 6
        for _ in range(2):  # a view that its operation does not declare, and one that it does
            for view in (torch.ops.aten._unsafe_view(matrix, [6, 4]), matrix.view(-1)):
                assert view.untyped_storage()._cdata == matrix.untyped_storage()._cdata


def test_attention_is_fused_and_counted() -> None:
    b, heads, queries, keys, width = 2, 3, 64, 80, 16
    query = torch.zeros(b, heads, queries, width, device="meta", requires_grad=True)
    key = torch.zeros(b, heads, keys, width, device="meta", requires_grad=True)
    cost = measure(
        nn.Identity(),
        lambda: F.scaled_dot_product_attention(query, key, key).sum(),
        inputs=[query, key],
    )
    product = 2 * b * heads * queries * keys * width
    assert cost.flops_forward == 2 * product
    assert cost.flops == 7 * product  # backward: the scores once more, and four products
    assert cost.saved_bytes < 4 * b * heads * queries * keys  # not the matrix of scores


def test_frozen_weights_need_no_gradient() -> None:
    layers = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)).to("meta")
    sample = torch.zeros(4, 8, device="meta")
    product = 2 * 4 * 8 * 8
    assert measure(layers, lambda: layers(sample).sum(), inputs=[sample]).flops == 5 * product
    layers[1].requires_grad_(False)
    assert measure(layers, lambda: layers(sample).sum(), inputs=[sample]).flops == 4 * product


def test_autocast_halves_what_layers_keep_and_functions_are_put_back() -> None:
    functions = (F.linear, F.conv2d, F.group_norm, torch.is_autocast_enabled)
    layer = nn.Linear(64, 64, device="meta")
    sample = torch.zeros(512, 64, device="meta")
    plain, low = (
        measure(layer, lambda: F.silu(layer(sample)).sum(), autocast=dtype, inputs=[sample])
        for dtype in (None, torch.bfloat16)
    )
    assert plain.saved_bytes == pytest.approx(512 * 64 * 4, rel=0.01)
    # The layer's output and the copy of its input, in two bytes each.
    assert low.saved_bytes == pytest.approx(2 * 512 * 64 * 2, rel=0.01)
    with pytest.raises(RuntimeError), StandIn():
        raise RuntimeError
    assert functions == (F.linear, F.conv2d, F.group_norm, torch.is_autocast_enabled)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_optimizer_state_is_counted_to_the_byte(name: str) -> None:
    parameters = list(make_workload("cpu").network.temporal_parameters())
    optimizer = make_optimizer(OptimConfig(optimizer=name), parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = [
        value for entry in optimizer.state_dict()["state"].values() for value in entry.values()
    ]
    assert optimizer_bytes(parameters, name) == sum(value.nbytes for value in state)


def test_a_plan_adds_up() -> None:
    workload = make_workload("meta", batch_size=8)
    alone = plan(workload, LaunchConfig(), 1)
    trained = sum(p.numel() for p in workload.network.temporal_parameters())
    assert (alone.trained_parameters, alone.temporal_parameters) == (trained, trained)
    assert alone.training is not None and alone.training.sharded is None
    assert alone.training.activations_checkpointed < alone.training.activations
    assert alone.training.whole.weights == 4 * alone.parameters
    assert alone.training.whole.activations == alone.training.activations

    many = plan(workload, LaunchConfig(gradient_accumulation=2, gradient_checkpointing=True), 4)
    assert many.training is not None and many.training.sharded is not None
    assert (many.training.batch_size, many.training.micro_batch) == (8, 1)
    # Text is embedded once per batch as before, so a step's arithmetic does not depend on how it is
    # spread.
    assert many.training.flops_forward == pytest.approx(alone.training.flops_forward, rel=1e-3)
    assert many.training.flops > alone.training.flops  # recomputation
    assert many.training.sharded.weights == pytest.approx(
        alone.training.whole.weights / 4, rel=1e-3
    )
    assert fits(many.training.sharded, 80) and not fits(many.training.sharded, 1e-3)
    text = as_text(many, 4, 1e-3, "fp32", True)
    assert "does not fit" in text and "temporal (trained)" in text and "sharded over 4" in text
    assert many.sample_flops == alone.sample_flops > 0


def run_command(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def test_folders_of_every_kind(tmp_path: Path) -> None:
    base = SpaceTimeUNet.from_unet2d(
        build_text_to_image_unet(16, (16, 32), 1, 32), conditioning_channels=4
    )
    base.save_pretrained(tmp_path / "pipe" / "unet")
    ssr = SpaceTimeUNet.from_unet2d(build_ssr_unet(32, (16, 32), 1), temporal_resampling=False)
    ssr.save_pretrained(tmp_path / "pipe" / "ssr_unet")
    (tmp_path / "pipe" / "model_index.json").write_text(json.dumps({"num_frames": 6}))
    first, second = stored_workloads(tmp_path / "pipe")
    assert (first.shape, first.text, second.shape, second.text) == (
        (7, 6, 16, 16),
        (77, 32),
        (6, 6, 32, 32),
        None,
    )
    assert next(first.network.parameters()).is_meta
    [alone] = stored_workloads(tmp_path / "pipe" / "unet", num_frames=3)
    assert alone.shape == (7, 3, 16, 16)

    result = run_command(REPOSITORY / "pretrained" / "t2i")
    assert result.exit_code == 0 and "6.09 M" in result.output
    output = json.loads(run_command(tmp_path / "pipe", "--json").output)
    assert [network["parameters"] for network in output["networks"]] == [
        sum(p.numel() for p in network.parameters()) for network in (base, ssr)
    ]


def test_a_params_file(tmp_path: Path) -> None:
    optim = {"batch_size": 4}
    values = {
        "decode": {"num_frames": 8, "size": 32},
        "prepare_t2i": {"source": "train", "size": 16, "block_out_channels": [16], "optim": optim},
        "train_conditioned": {"optim": optim},
        "distil": {"num_inference_steps": 2, "teacher_steps": 10, "optim": {**optim, "steps": 5}},
        "train_ssr": {
            "image_model": "train", "size": 32, "low_size": 16, "window_size": 4, "crop": 16,
            "block_out_channels": [16], "image_optim": optim, "optim": optim,
        },
        "generate": {"num_frames": 8, "window_size": 4, "overlap": 1, "num_inference_steps": 5},
        "evaluate": {"num_frames": 8},
    }  # fmt: skip
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    networks = json.loads(run_command("--params", path, "--processes", 2, "--json").output)[
        "networks"
    ]
    titles = ["text-to-image", "base, conditioned", "base, distilled"]
    titles += ["super-resolution, image", "super-resolution"]
    assert [network["title"] for network in networks] == titles
    assert [network["sample_passes"] for network in networks] == [0, 2 * 5, 2, 0, 3 * 8]
    _, conditioned, distilled, *_ = networks
    assert distilled["trained_parameters"] == distilled["parameters"] == conditioned["parameters"]
    teacher = 4 * conditioned["parameters"]  # bytes
    for kind, share in (("whole", 1), ("sharded", 2)):
        own = math.ceil(teacher / share)
        assert distilled["training"][kind]["weights"] == own + teacher
    # The student's training takes about three forward passes, its second prediction one, and the
    # guided teacher two.
    flops = distilled["training"]["flops"] / distilled["training"]["flops_forward"]
    assert flops == pytest.approx(6, rel=0.05)
    assert all(network["training"]["micro_batch"] == 2 for network in networks)


def test_autoguidance_adds_a_network_and_takes_passes_from_the_base(tmp_path: Path) -> None:
    """A guide of temporal weights alone is as large as the base; another is built as it is stored."""
    base = make_workload("cpu").network
    base.save_pretrained(tmp_path / "whole")
    base.save_temporal(tmp_path / "temporal")

    def params_with(folder: str) -> Params:
        generate = GenerateConfig(
            num_inference_steps=5,
            guidance_interval=(0.5, 1.0),
            guidance_type="auto",
            guide_unet=folder,
        )
        t2i = PrepareT2IConfig("train", 16, block_out_channels=(16, 32))
        ssr = TrainSSRConfig("train", low_size=16, block_out_channels=(16, 32))
        return Params(prepare_t2i=t2i, train_ssr=ssr, generate=generate)

    for folder, like_base in (("whole", False), ("temporal", True)):
        params = params_with(folder)
        networks = {each.title: each for each in workloads(params, tmp_path)}
        assert networks["base, conditioned"].sample_passes == 5
        assert networks["guide"].sample_passes == 3  # at t = 999, 799 and 599
        assert networks["guide"].sample_shape == (7, 16, 16, 16)
        is_base = networks["guide"].network is networks["base, conditioned"].network
        assert is_base == like_base
    with pytest.raises(
        ValueError, match=r"generate\.guide_unet: .*nowhere: no config\.json and no"
    ):
        workloads(params_with("nowhere"), tmp_path)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("nowhere",), "nowhere: no model_index.json"),
        (("--params", "nowhere.yaml"), "nowhere.yaml: no such file"),
        (("nowhere", "--params", "x.yaml"), "give one of them"),
    ],
)
def test_bad_input_ends_in_a_line(
    arguments: tuple[str, ...], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    result = run_command(*arguments)
    assert result.exit_code == 2
    assert words in result.output + capfd.readouterr().err

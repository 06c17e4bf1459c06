"""`torch.compile` sees one graph, and what comes out is the same; half precision on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from lumiere.models import SpaceTimeUNet
from tests.models.zoo import NAMES, as_video, make_inputs, make_unet2d, randomise_temporal

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")


def make(name: str, **settings: Any) -> tuple[SpaceTimeUNet, torch.Tensor, dict[str, Any]]:
    unet2d = make_unet2d(name)
    model = SpaceTimeUNet.from_unet2d(unet2d, **settings)
    randomise_temporal(model)
    image, given = make_inputs(unet2d)
    return model, as_video(image, 3) * torch.linspace(-1, 1, 3).view(1, 1, 3, 1, 1), given


@torch.no_grad()
def test_it_compiles_without_graph_breaks() -> None:
    model, video, given = make("if_stage_2")  # the training below takes another
    torch.compiler.reset()
    graphs = []

    def count(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=count, fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(compiled(video, **given).sample, model(video, **given).sample)
    assert len(graphs) == 1


@torch.no_grad()
def test_one_graph_serves_all_shapes() -> None:
    """The smallest network, because tracing symbolic sizes takes long.

    PyTorch takes equal sizes for one symbol, and has another kernel for 16 frames or more.
    """
    torch.manual_seed(0)
    unet2d = UNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=2, block_out_channels=(4, 4), layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        mid_block_type=None, norm_num_groups=2,
    )  # fmt: skip
    model = SpaceTimeUNet.from_unet2d(unet2d, temporal_head_dim=4).eval()
    randomise_temporal(model)
    torch.compiler.reset()
    graphs = []

    def count(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=count, dynamic=True, fullgraph=True)
    for shape in ((3, 2, 5, 8, 10), (4, 2, 3, 12, 8)):
        video = torch.randn(shape)
        made = compiled(video, torch.tensor(3), None).sample
        torch.testing.assert_close(made, model(video, torch.tensor(3), None).sample)
    assert len(graphs) == 1
    torch.compiler.reset()


def test_it_compiles_for_training_with_gradient_checkpointing() -> None:
    model, video, given = make("sd_inpainting")
    model.set_gradient_checkpointing(True)
    torch.compiler.reset()
    found = []
    for forward in (model, torch.compile(model, backend="eager", fullgraph=True)):
        model.zero_grad()
        forward(video, **given).sample.square().mean().backward()
        found.append([parameter.grad.clone() for parameter in model.temporal_parameters()])
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain)


def to_gpu(given: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    def move(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: move(each) for key, each in value.items()}
        return (
            value.to("cuda", dtype if value.is_floating_point() else None)
            if torch.is_tensor(value)
            else value
        )

    return move(given)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    model, video, given = make(name)
    with torch.no_grad():
        expected = model(video, **given).sample
    model.to("cuda", dtype)
    output = model(video.to("cuda", dtype), **to_gpu(given, dtype)).sample
    output.float().square().mean().backward()
    assert output.dtype == dtype
    assert (output.float().cpu() - expected).abs().mean() < 0.05 * expected.abs().mean()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.temporal_parameters())


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_under_autocast_on_a_gpu(dtype: torch.dtype) -> None:
    model, video, given = make("ours")
    expected = model(video, **given).sample
    with torch.autocast("cuda", dtype):
        output = model.cuda()(video.cuda(), **to_gpu(given, torch.float32)).sample
    assert (output.float().cpu() - expected).abs().mean() < 0.05 * expected.abs().mean()

"""Batches as memory allows, and no more memory than the windows in the network need."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lumiere.diffusion.denoising import predict_in_windows
from lumiere.diffusion.memory import BatchSize
from lumiere.diffusion.schedulers import Stepper
from lumiere.diffusion.windows import temporal_windows
from lumiere.pipelines import LumierePipeline
from tests.pipelines.test_files_and_styles import style_weights
from tests.pipelines.test_modes import IMAGE, STEPS, seed


def short_of_memory(most: int, sizes: list[int]) -> Callable[..., None]:
    """A forward pre-hook that has memory for so many rows."""

    def hook(_: object, args: tuple[Tensor, ...]) -> None:
        sizes.append(len(args[0]))
        if len(args[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.\nmore")

    return hook


def test_out_of_memory_halves_the_batch_once_and_gives_the_same_videos(
    pipe: LumierePipeline,
) -> None:
    options = {"num_videos_per_prompt": 5, "batch_size": None, "ssr_batch_size": None, **STEPS}
    whole = pipe("a cat", generator=seed(), **options).frames
    base, ssr = [], []
    pipe.unet.register_forward_pre_hook(short_of_memory(4, base))
    pipe.ssr_unet.register_forward_pre_hook(short_of_memory(3, ssr))
    made = pipe("a cat", generator=seed(), **options).frames
    # Five videos, twice for guidance: 10 rows fail, 2 videos fit. Two windows each: 10 and 5 fail, 2 fit.
    assert base == [10, 4, 4, 2, 4, 4, 2]
    assert ssr == [10, 5, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    torch.testing.assert_close(made, whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("resolution", ["base", "ssr"])
def test_out_of_memory_with_one_is_one_clear_error(pipe: LumierePipeline, resolution: str) -> None:
    unet = pipe.unet if resolution == "base" else pipe.ssr_unet
    unet.register_forward_pre_hook(short_of_memory(0, []))
    message = r"^out of memory with one clip, window or frame at a time; make window_size, .* smaller, .*\(CUDA out of"
    with pytest.raises(torch.OutOfMemoryError, match=message):
        pipe("a cat", num_videos_per_prompt=3, **STEPS)


@pytest.mark.parametrize("name", ["unet", "ssr_unet"])
def test_after_memory_ran_out_the_pipeline_is_as_it_was(pipe: LumierePipeline, name: str) -> None:
    pipe.add_style("ink", style_weights(pipe))
    options = {"style": "ink", "alpha": 0.5, "image": IMAGE, "num_videos_per_prompt": 2, **STEPS}
    plain = pipe("a cat", generator=seed(), **options).frames
    before = {key: value.clone() for key, value in pipe.unet.state_dict().items()}
    calls: list[int] = []

    def hook(_: object, args: tuple[Tensor, ...]) -> None:
        calls.append(len(args[0]))
        if len(calls) > 1:  # in the middle: what came before is done
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = getattr(pipe, name).register_forward_pre_hook(hook)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory with one"):
        pipe("a cat", generator=seed(), **options)
    handle.remove()
    assert all(torch.equal(value, before[key]) for key, value in pipe.unet.state_dict().items())
    assert torch.equal(pipe("a cat", generator=seed(), **options).frames, plain)


def test_other_errors_are_passed_on() -> None:
    def run(first: int, end: int) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        BatchSize(None).split(4, run)


@pytest.mark.parametrize(
    "status", ["out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"]
)
def test_memory_runs_out_inside_of_cuda(status: str) -> None:
    done: list[tuple[int, int]] = []

    def run(first: int, end: int) -> None:
        if end - first > 2:
            raise RuntimeError(f"CUDA error: {status}")
        done.append((first, end))

    BatchSize(None).split(4, run)
    assert done == [(0, 2), (2, 4)]


def test_memory_of_the_cpu_runs_out_too() -> None:
    done: list[tuple[int, int]] = []

    def run(first: int, end: int) -> None:
        if end - first > 2:
            torch.empty(2**60, dtype=torch.uint8)
        done.append((first, end))

    BatchSize(None).split(5, run)
    assert done == [(0, 2), (2, 4), (4, 5)]


def test_any_batch_size_gives_the_same_videos(pipe: LumierePipeline) -> None:
    def made(batch_size: int | None) -> Tensor:
        return pipe(
            ["a cat", "a dog"],
            generator=seed(),
            batch_size=batch_size,
            ssr_batch_size=batch_size,
            num_videos_per_prompt=2,
            num_frames=9,
            window_size=4,
            overlap=1,
            **STEPS,
        ).frames

    one = made(4)
    for batch_size in (1, 2, 3, 7, None):
        torch.testing.assert_close(made(batch_size), one, rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_frames", [16, 80, 320])
def test_only_the_windows_in_the_network_exist_beside_the_video(num_frames: int) -> None:
    """Neither are whole clips put together for the network, nor its outputs kept until the end."""
    alive: list[weakref.ref[Tensor]] = []
    largest = 0

    def network(model_input: Tensor, rows: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, model_input.numel())
        assert not any(reference() is not None for reference in alive)
        output = model_input[:, :3] + 0
        alive[:] = [weakref.ref(output), weakref.ref(model_input)]
        return output

    video = torch.randn(1, 3, num_frames, 2, 2, generator=seed())
    made = predict_in_windows(network, [video, video], temporal_windows(num_frames, 8, 2), 2)
    torch.testing.assert_close(made, video)
    assert largest == 2 * 6 * 8 * 2 * 2


class Storages(TorchDispatchMode):
    """The most bytes that were in tensors at once, of those made within."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        for storage in (
            leaf.untyped_storage() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)
        ):
            if storage._cdata not in self.alive:
                self.alive[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.alive.pop, storage._cdata)
        self.peak = max(self.peak, sum(self.alive.values()))
        return output


@pytest.mark.parametrize("output_type", ["pt", "np"])
def test_a_longer_video_takes_its_own_memory_three_times(
    pipe: LumierePipeline, output_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The noised low resolution, x_t and the prediction; neither the scheduler's arithmetic nor the first noise."""
    monkeypatch.setattr(Stepper, "part_size", 4 * 3 * 32 * 32)
    upscaler = pipe.upscaler()
    peaks: dict[int, int] = {}
    for num_frames in (8, 16, 32):
        low = torch.rand(1, num_frames, 3, 16, 16, generator=seed())
        with Storages() as storages:
            made = upscaler(
                low, num_inference_steps=2, batch_size=1, generator=seed(), output_type=output_type
            ).frames
        peaks[num_frames] = storages.peak
    per_frame = [(peaks[2 * n] - peaks[n]) / n / (3 * 32 * 32 * 4) for n in (8, 16)]
    assert made.shape[1] == 32
    # 3, and the low resolution as it was given and as it is read: a quarter each.
    assert all(3 < videos < 3.8 for videos in per_frame), per_frame


def test_another_precision(pipe: LumierePipeline) -> None:
    plain = pipe("a cat", generator=seed(), **STEPS).frames
    half = pipe.to(torch.bfloat16)(
        "a cat", generator=seed(), num_videos_per_prompt=1, **STEPS
    ).frames
    assert pipe.unet.dtype == torch.bfloat16 and half.dtype == torch.float32
    assert (half - plain).abs().mean() < 0.1

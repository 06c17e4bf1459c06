"""The denoising loop: from noise to clean clips, whole or in windows.

The pipelines and the previews of a training all sample through `denoise`; they differ only in the
network that they pass to it. The sampler computes in float32, whatever the network's dtype.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lumiere.diffusion.memory import BatchSize
from lumiere.diffusion.schedulers import Stepper, select_timesteps
from lumiere.diffusion.windows import Reconciler

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

Network = Callable[[Tensor, Tensor], Tensor]
"""(model_input (k, c_in, t, h, w), rows (k,)) -> model output (k, c, t, h, w); `rows` names the
clip that each entry belongs to."""

Predict = Callable[[Tensor, Tensor], Tensor]
"""(x_t as the scheduler scales it, timestep, 0-d) -> model output, for whole clips."""


def denoise(
    scheduler: SchedulerMixin,
    predict: Predict,
    start: Callable[[], Tensor],
    timesteps: Tensor,
    generators: list[torch.Generator],
    on_step: Callable[[int, Tensor, Tensor], Tensor] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Go from x_t to x_0, (b, c, t, h, w), with any diffusers scheduler.

    The only tensors of a clip's size that stay in memory are x_t, the prediction and the
    scheduler's own state.

    Args:
        scheduler: with its timesteps set.
        predict: predicts with the network; its output is overwritten.
        start: makes the first x_t, float32. It is a function, so that the caller does not keep a
            second copy.
        timesteps: the steps to do.
        generators: one per video, for schedulers that add noise as they go.
        on_step: called after each step with its number, timestep and x_t; returns the x_t for the
            next step.
        interrupted: called after each step; True ends the loop.
    """
    x_t = start()
    stepper = Stepper(scheduler, generators)
    for i, timestep in enumerate(timesteps):
        # No intermediate tensor has a name, so each is freed before the next prediction is made.
        x_t = stepper.step(
            predict(scheduler.scale_model_input(x_t, timestep), timestep), timestep, x_t
        )
        if on_step is not None:
            x_t = on_step(i, timestep, x_t)
        if interrupted():
            break
    return x_t


def sample_whole(
    scheduler: SchedulerMixin,
    predict: Predict,
    noise: Tensor,
    conditions: Sequence[Tensor],
    num_inference_steps: int,
    generators: list[torch.Generator],
    timestep_power: float = 1.0,
) -> Tensor:
    """Go from noise to x_0 as the pipelines do, without windows or held pixels; previews use it.

    Clips are (b, c, t, h, w). Images, (b, c, h, w), work as well.

    Args:
        scheduler: any diffusers scheduler of the network's prediction type; its state is reset.
        predict: takes x_t with the conditions on the channel axis, and the timestep. For a network
            with text, pass `TextGuidance.predict` with its other arguments filled in.
        noise: standard normal, (b, c, ...), float32; it is not changed.
        conditions: (b, c_i, ...), appended to x_t on the channel axis at every step; empty for text
            alone.
        num_inference_steps: steps from pure noise.
        generators: one per row, for schedulers that add noise as they go.
        timestep_power: of `power_timesteps`; 1 leaves the spacing to the scheduler.
    """

    def predict_with_conditions(scaled_x_t: Tensor, timestep: Tensor) -> Tensor:
        return predict(torch.cat([scaled_x_t, *conditions], dim=1), timestep)

    timesteps = select_timesteps(scheduler, num_inference_steps, noise.device, power=timestep_power)
    return denoise(
        scheduler,
        predict_with_conditions,
        start=lambda: noise * scheduler.init_noise_sigma,
        timesteps=timesteps,
        generators=generators,
    )


def predict_in_windows(
    network: Network,
    inputs: Sequence[Tensor],
    windows: Sequence[tuple[int, int]],
    batch_size: BatchSize | int | None = None,
    weights: Sequence[Tensor] | None = None,
) -> Tensor:
    """Predict whole clips window by window, and reconcile the predictions of the windows.

    Apart from the inputs and the result, only the windows that are in the network take memory.

    Args:
        network: takes some windows at a time; `rows` gives the clip of each.
        inputs: (b, c_i, t, h, w) each; the network sees windows of them, concatenated on the
            channel axis.
        windows: half-open frame ranges that cover t.
        batch_size: how many windows of any clip go through the network at once; None for all.
        weights: (t_i,) per window, for a weighted mean.

    Returns:
        (b, c, t, h, w), the mean where windows overlap.
    """
    batches = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size)
    num_clips, num_frames, device = inputs[0].shape[0], inputs[0].shape[2], inputs[0].device
    reconciler = Reconciler(windows, num_frames, weights)
    whole: list[Tensor] = []  # if all windows go in at once, the prediction is the result

    # Windows of one length go in together.
    lengths = itertools.groupby(enumerate(windows), key=lambda entry: entry[1][1] - entry[1][0])
    for _, group in lengths:
        pairs = [(index, row) for index, _ in group for row in range(num_clips)]

        def run(first: int, end: int, pairs: list[tuple[int, int]] = pairs) -> None:
            chunk = pairs[first:end]
            rows = torch.tensor([row for _, row in chunk], device=device)
            if len(windows) == 1 and len(chunk) == num_clips:
                whole.append(network(torch.cat(list(inputs), dim=1), rows))
                return
            cuts = [(row, slice(*windows[index])) for index, row in chunk]
            parts = [torch.stack([part[row, :, frames] for row, frames in cuts]) for part in inputs]
            # Converted to float32 now, so that all memory is allocated before anything is added.
            outputs = network(torch.cat(parts, dim=1), rows).float()
            for (index, row), output in zip(chunk, outputs, strict=True):
                reconciler.add(index, output, num_clips, row)

        batches.split(len(pairs), run)
    return whole[0] if whole else reconciler.result()

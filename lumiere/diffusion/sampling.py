"""Sampling: seeds, timesteps, guidance, and one denoising loop for clips and for windows of clips.

Everything that steps from noise to a video goes through `denoise`; what differs between the base model and
super-resolution is the network that it is given. Arithmetic of the sampler is float32, whatever the network's dtype.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lumiere.diffusion.objective import without_variance
from lumiere.diffusion.windows import Reconciler
from lumiere.errors import first_line

Network = Callable[[Tensor, Tensor], Tensor]
"""(model_input (k, c_in, t, h, w), rows (k,): the clip that each entry belongs to) -> model output (k, c, t, h, w)."""


# --- randomness ------------------------------------------------------------------------------------------------------


def video_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, num_videos: int
) -> list[torch.Generator]:
    """One generator per video, so that no video's noise depends on the batch that it is in.

    Each is seeded by a number drawn from the caller's: the first video of a batch equals that seed's video alone, and
    with a list of generators every video does. Videos of one generator never share their noise: torch's generator on
    the CPU knows seeds by their lower 32 bits alone, so numbers that are alike in these are passed over.

    Args:
        generator: one for all, one per video, or None for torch's global state.
        num_videos: how many are wanted.

    Raises:
        ValueError: on a list of another length.
    """
    if generator is None or isinstance(generator, torch.Generator):
        device = torch.device("cpu") if generator is None else generator.device
        return [
            torch.Generator(device).manual_seed(seed) for seed in draw_seeds(generator, num_videos)
        ]
    if len(generator) != num_videos:
        raise ValueError(
            f"generator is a list of {len(generator)} for {num_videos} videos; pass one per video"
        )
    return [child for source in generator for child in video_generators(source, 1)]


def draw_seeds(generator: torch.Generator | None, count: int) -> list[int]:
    """Seeds that differ in their lower 32 bits."""
    device = torch.device("cpu") if generator is None else generator.device
    seeds: dict[int, int] = {}
    while len(seeds) < count:
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        seeds.setdefault(seed % 2**32, seed)
    return list(seeds.values())


def draw_noise(
    shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device
) -> Tensor:
    """Standard normal noise (b, c, t, h, w), float32, each row drawn from and on the device of its own generator."""
    noise = torch.empty(tuple(shape), device=device)
    for row, source in zip(noise, generators, strict=True):
        row.copy_(torch.randn(row.shape, generator=source, device=source.device))
    return noise


# --- time ------------------------------------------------------------------------------------------------------------

# They take the history of steps that were skipped for granted.
FROM_NOISE_ALONE = ("LMSDiscreteScheduler", "PNDMScheduler")
WORKING = (
    "DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler or UniPCMultistepScheduler"
)


def check_prediction_type(scheduler: Any, expected: str, name: str) -> None:
    """Raises ValueError where a scheduler reads the network's output as something else than it was trained to be."""
    kind, found = type(scheduler).__name__, scheduler.config.get("prediction_type")
    # `from_config` keeps settings that a class does not have, such as the prediction type of a flow scheduler.
    if "prediction_type" not in inspect.signature(type(scheduler).__init__).parameters:
        raise ValueError(
            f"{name} is a {kind}, which has no prediction_type, but the model predicts {expected!r}; "
            f"take a diffusion scheduler, such as {WORKING}"
        )
    if found != expected:
        raise ValueError(
            f"{name} is a {kind} with prediction_type {found!r}, but the model predicts {expected!r}; "
            f"make it with {kind}.from_config(config of the scheduler that was saved)"
        )
    if expected == "epsilon" and scheduler.config.get("rescale_betas_zero_snr"):
        raise ValueError(
            f"{name} is a {kind} with zero terminal SNR, where the noise tells nothing of the video, but the model "
            f"predicts 'epsilon'; make it with {kind}.from_config({name}.config, rescale_betas_zero_snr=False)"
        )
    if "sigma_data" in inspect.signature(type(scheduler).__init__).parameters:
        raise ValueError(
            f"{name} is a {kind}, which scales what the model sees and predicts as EDM does, but the model was trained "
            f"without; take another, such as {WORKING}"
        )
    variance = scheduler.config.get("variance_type")
    if variance in ("learned", "learned_range"):
        raise ValueError(
            f"{name} is a {kind} with variance_type {variance!r}, but a learned variance is not used; "
            f"make it with {kind}.from_config({name}.config, variance_type='fixed_small')"
        )


def select_timesteps(
    scheduler: Any, num_inference_steps: int, device: torch.device, strength: float = 1.0
) -> Tensor:
    """The timesteps to visit, from noisy to clean.

    Args:
        scheduler: any diffusers scheduler; its state is reset.
        num_inference_steps: steps from pure noise.
        device: where the timesteps go.
        strength: the share of steps that is done, the last ones (SDEdit); rounds to whole steps, so there may be none.

    Raises:
        ValueError: outside the ranges, or on a scheduler that cannot go this way.
    """
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps is {num_inference_steps}; allowed: at least 1")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}; allowed: 0 (keep the video) to 1 (ignore it)")
    scheduler.set_timesteps(num_inference_steps, device=device)
    # KDPM2's ancestral kind has no numbers for some noise schedules, inverse schedulers go the other way.
    if not (
        scheduler.timesteps.isfinite().all() and scheduler.timesteps[0] >= scheduler.timesteps[-1]
    ):
        raise ValueError(
            f"scheduler is a {type(scheduler).__name__}, whose timesteps do not lead from noise to a video with this "
            f"noise schedule; take another, such as {WORKING}"
        )
    # A second-order scheduler lists every step but one twice.
    skipped = (num_inference_steps - round(num_inference_steps * strength)) * getattr(
        scheduler, "order", 1
    )
    if skipped and type(scheduler).__name__ in FROM_NOISE_ALONE:
        raise ValueError(
            f"scheduler is a {type(scheduler).__name__}, which cannot begin in the middle; set strength and "
            f"image_strength to 1, or take another, such as {WORKING}"
        )
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    return scheduler.timesteps[skipped:]


# --- guidance --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextGuidance:
    """Classifier-free guidance with text (Ho and Salimans 2022), rescaled (Lin et al. 2023).

    Attributes:
        prompt_embeds, prompt_mask: (b, n, d) and (b, n), one row per clip.
        negative_embeds, negative_mask: likewise, what to move away from.
        scale: 1 means no guidance, and one half of the work.
        rescale: 0 to 1, how far the standard deviation is brought back to the conditional prediction's.
    """

    prompt_embeds: Tensor
    prompt_mask: Tensor
    negative_embeds: Tensor
    negative_mask: Tensor
    scale: float
    rescale: float

    def predict(self, unet: Any, model_input: Tensor, timestep: Tensor, rows: Tensor) -> Tensor:
        """Both halves in one forward pass: (k, c_in, t, h, w) -> (k, c, t, h, w)."""
        embeds, mask = self.prompt_embeds[rows], self.prompt_mask[rows]
        if self.scale == 1:
            return without_variance(
                unet(model_input, timestep, embeds, mask).sample, unet.in_channels
            )
        both = model_input.repeat(2, 1, 1, 1, 1)
        embeds = torch.cat([self.negative_embeds[rows], embeds])
        mask = torch.cat([self.negative_mask[rows], mask])
        output = without_variance(unet(both, timestep, embeds, mask).sample, unet.in_channels)
        negative, positive = output.float().chunk(2)
        return self.combine(negative, positive)

    def combine(self, negative: Tensor, positive: Tensor) -> Tensor:
        """Guided prediction of the two, (k, c, t, h, w) each."""
        guided = negative + self.scale * (positive - negative)
        if self.rescale == 0:
            return guided
        axes = tuple(range(1, guided.ndim))
        # Lin et al., equations 14 to 16: guidance raises the contrast; its standard deviation is brought back.
        rescaled = guided * (
            positive.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp(min=1e-8)
        )
        return torch.lerp(guided, rescaled, self.rescale)


# --- windows and the loop --------------------------------------------------------------------------------------------


OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory", "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip


class BatchSize:
    """How many windows or clips go through a network at once: as many as asked for, fewer once memory has run out.

    One object serves all steps of a video, so that memory runs out once and not at every step.
    """

    def __init__(self, most: int | None) -> None:
        """`most`: None for all at once."""
        self.most = most

    def split(self, total: int, run: Callable[[int, int], None]) -> None:
        """Call run(first, end) on consecutive parts of `total`; where memory runs out, again on half as many.

        Raises:
            torch.OutOfMemoryError: when memory runs out with a part of one.
        """
        first = 0
        while first < total:
            end = total if self.most is None else min(total, first + self.most)
            try:
                run(first, end)
                first = end
                continue
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # Outside of the handler: the error holds on to the tensors of the frames that it came through.
            if end - first == 1:
                raise torch.OutOfMemoryError(
                    "out of memory with one clip, window or frame at a time; make window_size, num_frames or "
                    f"height and width smaller, or load the pipeline in bfloat16 ({reason})"
                )
            self.most = (end - first) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Also on the CPU, and inside of CUDA's libraries, where torch has no class of its own for it."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        part in str(error) for part in OUT_OF_MEMORY
    )


def predict_in_windows(
    network: Network,
    inputs: Sequence[Tensor],
    windows: Sequence[tuple[int, int]],
    batch_size: BatchSize | int | None = None,
    weights: Sequence[Tensor] | None = None,
) -> Tensor:
    """The network's prediction for whole clips, made window by window and reconciled.

    Only the windows that are in the network exist beside the inputs and the result.

    Args:
        network: sees some windows at a time; `rows` tells it whose.
        inputs: (b, c_i, t, h, w) each; the network sees windows of them, one after the other on the channel axis.
        windows: half-open frame ranges that cover t.
        batch_size: how many windows of any clip go through the network at once; None for all.
        weights: (t_i,) per window, for a weighted mean.

    Returns:
        (b, c, t, h, w), the mean where windows overlap.
    """
    batches = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size)
    num_clips, num_frames, device = inputs[0].shape[0], inputs[0].shape[2], inputs[0].device
    reconciler = Reconciler(windows, num_frames, weights)
    whole: list[Tensor] = []  # where all goes in at once, the prediction is the result
    for _, group in itertools.groupby(
        enumerate(windows), key=lambda entry: entry[1][1] - entry[1][0]
    ):
        pairs = [(index, row) for index, _ in group for row in range(num_clips)]

        def run(first: int, end: int, pairs: list[tuple[int, int]] = pairs) -> None:
            chunk = pairs[first:end]
            rows = torch.tensor([row for _, row in chunk], device=device)
            if len(windows) == 1 and len(chunk) == num_clips:
                whole.append(network(torch.cat(list(inputs), dim=1), rows))
                return
            cuts = [(row, slice(*windows[index])) for index, row in chunk]
            parts = [torch.stack([part[row, :, frames] for row, frames in cuts]) for part in inputs]
            outputs = network(
                torch.cat(parts, dim=1), rows
            ).float()  # all memory is taken before anything is added
            for (index, row), output in zip(chunk, outputs, strict=True):
                reconciler.add(index, output, num_clips, row)

        batches.split(len(pairs), run)
    return whole[0] if whole else reconciler.result()


def denoise(
    scheduler: Any,
    predict: Callable[[Tensor, Tensor], Tensor],
    start: Callable[[], Tensor],
    timesteps: Tensor,
    generators: list[torch.Generator],
    on_step: Callable[[int, Tensor, Tensor], Tensor] | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Tensor:
    """From x_t to x_0, (b, c, t, h, w), by any diffusers scheduler.

    Beside what the scheduler remembers, x_t and the prediction are all that is kept of a clip's size.

    Args:
        scheduler: with its timesteps set.
        predict: (scaled x_t, timestep) -> model output, for whole clips, which is overwritten.
        start: makes the x_t to begin with, float32; a function, so that nobody else keeps it.
        timesteps: the steps to do.
        generators: one per video, for schedulers that add noise as they go.
        on_step: called after each step with its number, timestep and x_t; returns the x_t to go on with.
        interrupted: asked after each step; True ends it there.
    """
    x_t = start()
    stepper = Stepper(scheduler, generators)
    for i, timestep in enumerate(timesteps):
        x_t = stepper.step(
            predict(scheduler.scale_model_input(x_t, timestep), timestep), timestep, x_t
        )
        if on_step is not None:
            x_t = on_step(i, timestep, x_t)
        if interrupted():
            break
    return x_t


class Stepper:
    """Steps of any diffusers scheduler, some frames at a time: what it computes on the way is several times its input.

    Every part has a scheduler of its own, which remembers its frames alone. A video's frames are parted alike in any
    batch.
    """

    part_size = 2**20  # numbers of a video

    def __init__(self, scheduler: Any, generators: list[torch.Generator]) -> None:
        """`generators`: one per video, for schedulers that add noise as they go."""
        self.scheduler = scheduler
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        self.options = {"generator": generators} if takes_generator else {}
        self.schedulers: list[Any] = []

    def step(self, model_output: Tensor, timestep: Tensor, x_t: Tensor) -> Tensor:
        """The next x_t, float32, in the memory of `model_output` where that can be; all (b, c, t, h, w)."""
        parts = self._parts(x_t)
        if len(parts) == 1:
            return self._step(self.scheduler, model_output.float(), timestep, x_t)
        if not self.schedulers:  # after scale_model_input, which some want to see first
            self.schedulers = [self.scheduler, *(copy.deepcopy(self.scheduler) for _ in parts[1:])]
        result = (
            model_output
            if model_output.dtype == torch.float32
            else torch.empty_like(x_t, dtype=torch.float32)
        )
        for scheduler, frames in zip(self.schedulers, parts, strict=True):
            # Copies: some schedulers remember what they are given, and the memory is written to.
            given = (
                tensor[:, :, frames].to(torch.float32, copy=True) for tensor in (model_output, x_t)
            )
            result[:, :, frames] = self._step(scheduler, next(given), timestep, next(given))
        return result

    def _step(self, scheduler: Any, model_output: Tensor, timestep: Tensor, x_t: Tensor) -> Tensor:
        stepped: Tensor = scheduler.step(
            model_output, timestep, x_t, return_dict=False, **self.options
        )[0]
        return stepped

    def _parts(self, x_t: Tensor) -> list[slice]:
        """Frames that go through the scheduler together."""
        num_frames = x_t.shape[2]
        length = max(1, self.part_size // x_t[0, :, 0].numel())
        # By a quantile of the whole video; with one seed for all the noise that it adds.
        if (
            self.scheduler.config.get("thresholding")
            or "noise_sampler_seed" in self.scheduler.config
        ):
            length = num_frames
        return [slice(start, start + length) for start in range(0, num_frames, length)]

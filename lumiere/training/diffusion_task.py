"""The base class of all trainings: a network, its clips, its objective, and the seeds of each
example.

All randomness of an example is seeded from (training, seed, position in the stream of examples). So
the data, noise and timesteps stay the same when a run resumes, when the number of processes
changes, or when a batch is split differently.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.data import default_collate

from lumiere.config import OptimConfig
from lumiere.data.clips import batch_order, epoch_length
from lumiere.diffusion.latents import LatentShapes, LatentSpace
from lumiere.diffusion.noise import draw_noise
from lumiere.diffusion.objective import Objective
from lumiere.models import SpaceTimeUNet
from lumiere.training.seeding import generator_for
from lumiere.training.throughput import count_flops

Batch = dict[str, Tensor]


class Stream(Protocol):
    """A sequence of clips that are stored in shards."""

    @property
    def shards(self) -> Sequence[str]:
        """The shard of each clip."""

    @property
    def buckets(self) -> Sequence[int]:
        """The number of the size of each clip; all 0 if all clips have one size."""

    def __len__(self) -> int:
        """Return the number of clips."""


Data = TypeVar("Data", bound=Stream)


@dataclass
class NetworkInput:
    """The input of a network on pictures (b, c, h, w) or on clips (b, c, t, h, w).

    Attributes:
        sample: x_t, pixels or latents.
        timesteps: the noise level of each row, (b,).
        conditioning: appended to the sample on the channel axis, such as C and M; None appends
            nothing.
        prompt_embeds, prompt_mask: text states (b, n, d) and mask (b, n); None without text.
        class_labels: (b,), None for a network without classes.
    """

    sample: Tensor
    timesteps: Tensor
    conditioning: Tensor | None = None
    prompt_embeds: Tensor | None = None
    prompt_mask: Tensor | None = None
    class_labels: Tensor | None = None

    @property
    def model_input(self) -> Tensor:
        """The sample, with the conditioning appended on the channel axis."""
        if self.conditioning is None:
            return self.sample
        return torch.cat([self.sample, self.conditioning], dim=1)

    def arguments(self) -> tuple[tuple[Tensor, ...], dict[str, Tensor | None]]:
        """Return positional and keyword arguments that fit both kinds of network."""
        keywords = {
            "encoder_hidden_states": self.prompt_embeds,
            "encoder_attention_mask": self.prompt_mask,
            "class_labels": self.class_labels,
        }
        return (self.model_input, self.timesteps), keywords

    def call(self, network: nn.Module) -> Tensor:
        """Run the network and return its output."""
        positional, keywords = self.arguments()
        return network(*positional, **keywords).sample


@dataclass
class NoisedBatch:
    """The input of a network, with the clean video and the noise that define its target."""

    inputs: NetworkInput
    x_0: Tensor
    noise: Tensor


@dataclass(eq=False, repr=False)
class DiffusionTask(ABC, Generic[Data]):
    """A diffusion network and its clips, as the loop trains it.

    Attributes:
        name: names the training, and takes part in its random seeds.
        network: a UNet2DConditionModel or a SpaceTimeUNet.
        scheduler: the diffusers scheduler with the network's noise schedule and prediction type.
        train_data, validation_data: clips; the validation split may be empty.
        config: the loop's settings.
        vae: an AutoencoderKL for a network that works in latents; it is not trained.
        noise_correlation: between the noise of any two frames of a clip, 0 to 1.
    """

    name: str
    network: UNet2DConditionModel | SpaceTimeUNet
    scheduler: SchedulerMixin
    train_data: Data
    validation_data: Data
    config: OptimConfig
    vae: AutoencoderKL | None = None
    noise_correlation: float = field(default=0.0, kw_only=True)
    objective: Objective = field(init=False)
    space: LatentSpace = field(init=False)

    validation_clips = 16

    def __post_init__(self) -> None:
        self.network.train()
        self.objective = Objective(self.scheduler, self.config.min_snr_gamma)
        self.space = LatentSpace(self.vae)
        self._order: tuple[int, np.ndarray] | None = None
        self._epoch: tuple[Sequence[int], int] | None = None  # its length, for these clips
        self._held_out: tuple[Sequence[int], np.ndarray] | None = None  # those of one size

    @abstractmethod
    def draw(
        self, data: Data, clip: int, generator: torch.Generator, training: bool, one_frame: bool
    ) -> Batch:
        """Draw an example from one clip, on the CPU, with all randomness from the generator.

        Args:
            data, clip: the clips, and the number of the one to use.
            generator: the source of all randomness.
            training: drop texts as often as the settings say; validation drops none.
            one_frame: draw a single frame of the clip.
        """

    @abstractmethod
    def noised(self, batch: Batch) -> NoisedBatch:
        """Return the network's input for a batch, at the batch's noise levels and on its device."""

    def one_frame(self, step: int) -> bool:
        """Return whether a step trains on single frames."""
        return False

    def one_frame_choices(self) -> tuple[bool, ...]:
        """Return what `one_frame` returns for one step or another."""
        return (False,)

    def example(self, position: int) -> Batch:
        """Return the training example at a position of the endless stream of epochs. Step s starts
        at position s * batch_size.

        Raises:
            ValueError: when there are no clips.
        """
        batch_size, seed = self.config.batch_size, self.config.seed
        step, place = divmod(position, batch_size)
        generator = generator_for(self.name, seed, position)
        clip, one_frame = self._clip_at(position), self.one_frame(step)
        example = self.draw(self.train_data, clip, generator, True, one_frame)
        return example | self._noise_level(place, batch_size, (self.name, seed, step), generator)

    def held_out(self) -> int:
        """Return the number of validation examples: 0 without held-out clips."""
        return self.validation_clips if len(self.validation_data) else 0

    def validation_example(self, i: int) -> Batch:
        """Return the i-th validation example, with the same noise, timestep and crop or mask each
        time. If clips have several sizes, all examples have the most frequent one, because any of
        them may share a batch.
        """
        total = self.validation_clips
        key = f"{self.name}-validation"
        generator = generator_for(key, i)
        clips = self._held_out_clips()
        clip = int(clips[round(i * (len(clips) - 1) / (total - 1))])
        example = self.draw(self.validation_data, clip, generator, False, False)
        return example | self._noise_level(i, total, (key,), generator)

    def losses(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the weighted loss of each example (b,); `network` is the task's own, perhaps
        wrapped.
        """
        noised = self.noised(batch)
        output = noised.inputs.call(network)
        return self.objective.losses(output, noised.x_0, noised.noise, noised.inputs.timesteps)

    def batches_of_each_shape(self, batch_size: int) -> Iterator[Batch]:
        """Yield a batch for each size of clip, and for single frames if some steps train on them.
        Every example of it is the same.

        Raises:
            ValueError: when there are no clips.
        """
        self._check_clips()
        for clip in np.unique(self.train_data.buckets, return_index=True)[1].tolist():
            for one_frame in self.one_frame_choices():
                key = f"{self.name}-shape"
                generator = generator_for(key)
                example = self.draw(self.train_data, clip, generator, True, one_frame)
                example |= self._noise_level(0, batch_size, (key,), generator)
                yield default_collate([example] * batch_size)

    def flops(self, batch: Batch) -> int:
        """Count the floating-point operations of a forward and backward pass, without
        recomputation.
        """
        shapes = copy.copy(self)
        # The VAE is not counted, and it would be slow on the CPU, where the batch is.
        shapes.space = LatentShapes(self.space.vae)
        return count_flops(self.network, *shapes.noised(batch).inputs.arguments())

    def draw_noise(self, batch: Batch, like: Tensor) -> Tensor:
        """Draw Gaussian noise shaped like `like` (b, ...), each row from its example's own seed."""
        seeds = batch["noise_seed"].tolist()
        generators = [torch.Generator(like.device).manual_seed(seed) for seed in seeds]
        noise = draw_noise(like.shape, generators, like.device, self.noise_correlation)
        return noise.to(like.dtype)

    def _held_out_clips(self) -> np.ndarray:
        buckets = self.validation_data.buckets
        if self._held_out is None or self._held_out[0] is not buckets:
            clips = np.flatnonzero(np.asarray(buckets) == np.bincount(buckets).argmax())
            self._held_out = buckets, clips
        return self._held_out[1]

    def _check_clips(self) -> None:
        if not len(self.train_data):
            raise ValueError("there are no clips to draw batches from")

    def _clip_at(self, position: int) -> int:
        self._check_clips()
        data, config = self.train_data, self.config
        if self._epoch is None or self._epoch[0] is not data.buckets:
            self._epoch = data.buckets, epoch_length(data.buckets, config.batch_size)
        epoch, place = divmod(position, self._epoch[1])
        if self._order is None or self._order[0] != epoch:
            order = batch_order(
                data.shards,
                data.buckets,
                config.seed,
                epoch,
                config.shuffle_buffer,
                config.batch_size,
            )
            self._order = epoch, order
        return int(self._order[1][place])

    def _noise_level(
        self, place: int, total: int, key: tuple[int | str, ...], generator: torch.Generator
    ) -> Batch:
        """Draw a timestep, stratified over the `total` examples of a batch to lower the loss's
        variance.
        """
        strata = torch.randperm(total, generator=generator_for("strata", *key))
        within = float(torch.rand((), generator=generator, dtype=torch.float64))
        level = (int(strata[place]) + within) / total
        num_timesteps = self.objective.num_timesteps
        timestep = min(int(level * num_timesteps), num_timesteps - 1)
        seed = torch.randint(2**62, (), generator=generator)
        return {"timesteps": torch.tensor(timestep), "noise_seed": seed}


def is_inflated(network: nn.Module) -> bool:
    """Return whether a network takes clips rather than images."""
    return isinstance(network, SpaceTimeUNet)

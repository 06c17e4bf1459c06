"""What the trainings have in common: a network on clips, its objective, and where an example's randomness comes from.

Everything that is random about an example is drawn from (training, seed, its position in the stream of examples): a
resumed run, another number of processes and other parts of a batch see the same data, noise and timesteps.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lumiere.config import OptimConfig
from lumiere.data.clips import clip_order
from lumiere.diffusion.latents import LatentShapes, LatentSpace
from lumiere.diffusion.objective import Objective
from lumiere.models import SpaceTimeUNet
from lumiere.training.seeding import generator_for
from lumiere.training.throughput import count_flops

Batch = dict[str, Tensor]


class Stream(Protocol):
    """Clips in shards."""

    @property
    def shards(self) -> Sequence[str]:
        """The shard of each clip."""

    def __len__(self) -> int:
        """How many clips."""


Data = TypeVar("Data", bound=Stream)


@dataclass
class NetworkCall:
    """One forward pass and what its output is compared with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    x_0: Tensor
    noise: Tensor
    timesteps: Tensor


class DiffusionTask(ABC, Generic[Data]):
    """A diffusion network on training and held-out clips: the loop's view of every training here."""

    validation_clips = 16

    def __init__(
        self,
        name: str,
        network: Any,
        scheduler: Any,
        train_data: Data,
        validation_data: Data,
        config: OptimConfig,
        vae: Any | None = None,
    ) -> None:
        """
        Args:
            name: names the training, and seeds what it draws.
            network: a UNet2DConditionModel or a SpaceTimeUNet.
            scheduler: the diffusers scheduler with the network's noise schedule and prediction type.
            train_data, validation_data: clips; nothing need be held out.
            config: the loop's settings.
            vae: of a network that works in latents: an AutoencoderKL, which is no part of what is trained.
        """
        self.name, self.network, self.config = name, network.train(), config
        self.objective = Objective(scheduler, config.min_snr_gamma)
        self.space = LatentSpace(vae)
        self.train_data, self.validation_data = train_data, validation_data
        self._order: tuple[int, np.ndarray] | None = None

    @abstractmethod
    def draw(
        self, data: Data, clip: int, generator: torch.Generator, training: bool, one_frame: bool
    ) -> Batch:
        """An example of one clip, on the CPU, all randomness drawn from the generator; no text is dropped unless
        `training`."""

    @abstractmethod
    def call(self, batch: Batch) -> NetworkCall:
        """The forward pass of a batch, on the batch's device."""

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Those that need a gradient: the temporal ones of an inflated network, all of an image network's or, where
        it carries adapters, theirs."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def one_frame(self, step: int) -> bool:
        """Whether a step trains on single frames."""
        return False

    def example(self, position: int) -> Batch:
        """The training example at a position of the endless stream of epochs; step s has positions s * batch_size on.

        Raises:
            ValueError: when there are no clips.
        """
        config, seed = self.config, self.config.seed
        step, place = divmod(position, config.batch_size)
        generator = generator_for(self.name, seed, position)
        example = self.draw(
            self.train_data, self._clip_at(position), generator, True, self.one_frame(step)
        )
        return example | self._noise_level(
            place, config.batch_size, (self.name, seed, step), generator
        )

    def held_out(self) -> int:
        """How many validation examples there are: 0 without held-out clips."""
        return self.validation_clips if len(self.validation_data) else 0

    def validation_example(self, i: int) -> Batch:
        """The i-th, the same noise, timestep and crop or mask each time."""
        total = self.validation_clips
        key = f"{self.name}-validation"
        generator = generator_for(key, i)
        clip = round(i * (len(self.validation_data) - 1) / (total - 1))
        example = self.draw(self.validation_data, clip, generator, False, False)
        return example | self._noise_level(i, total, (key,), generator)

    def losses(self, network: nn.Module, batch: Batch) -> Tensor:
        """The loss of each example (b,), weighted; `network` is the task's own, maybe wrapped."""
        call = self.call(batch)
        output = network(*call.args, **call.kwargs).sample
        return self.objective.losses(output, call.x_0, call.noise, call.timesteps)

    def flops(self, batch: Batch) -> int:
        """Floating-point operations of the network's forward and backward pass on a batch, without recomputation."""
        shapes = copy.copy(self)
        shapes.space = LatentShapes(
            self.space.vae
        )  # a VAE is not counted, and slow where the batch is
        call = shapes.call(batch)
        return count_flops(self.network, call.args, call.kwargs)

    def noise_for(self, batch: Batch, like: Tensor) -> Tensor:
        """Gaussian noise shaped like `like` (b, ...), each example's from its own seed, on the device of `like`."""
        noise = torch.empty_like(like)
        for row, seed in zip(noise, batch["noise_seed"].tolist(), strict=True):
            row.normal_(generator=torch.Generator(like.device).manual_seed(seed))
        return noise

    def _clip_at(self, position: int) -> int:
        if not len(self.train_data):
            raise ValueError("there are no clips to draw batches from")
        epoch, place = divmod(position, len(self.train_data))
        if self._order is None or self._order[0] != epoch:
            config = self.config
            order = clip_order(self.train_data.shards, config.seed, epoch, config.shuffle_buffer)
            self._order = epoch, order
        return int(self._order[1][place])

    def _noise_level(
        self, place: int, total: int, key: tuple[int | str, ...], generator: torch.Generator
    ) -> Batch:
        """A timestep, stratified over the `total` examples of a batch, which lowers the loss' variance."""
        strata = torch.randperm(total, generator=generator_for("strata", *key))
        level = (
            int(strata[place]) + float(torch.rand((), generator=generator, dtype=torch.float64))
        ) / total
        timestep = min(int(level * self.objective.num_timesteps), self.objective.num_timesteps - 1)
        seed = torch.randint(2**62, (), generator=generator)
        return {"timesteps": torch.tensor(timestep), "noise_seed": seed}


def is_inflated(network: Any) -> bool:
    """Whether a network sees clips rather than images."""
    return isinstance(network, SpaceTimeUNet)

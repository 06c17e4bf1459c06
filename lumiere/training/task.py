"""What the trainings have in common: a network on clips, its objective, and where a step's randomness comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sized
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from lumiere.config import OptimConfig, TextOptimConfig
from lumiere.data.clips import batch_indices
from lumiere.diffusion.objective import Objective
from lumiere.models import SpaceTimeUNet
from lumiere.training.seeding import generator_for

Clips = TypeVar("Clips", bound=Sized)


class DiffusionTask(ABC, Generic[Clips]):
    """A diffusion network on training and held-out clips: the loop's view of every training here."""

    validation_clips = 16

    def __init__(
        self, name: str, network: Any, scheduler: Any, train_data: Clips, validation_data: Clips, config: OptimConfig
    ) -> None:
        """
        Args:
            name: names the training, and seeds what it draws.
            network: a UNet2DConditionModel or a SpaceTimeUNet.
            scheduler: the diffusers scheduler with the network's noise schedule and prediction type.
            train_data, validation_data: clips; nothing need be held out.
            config: the loop's settings.
        """
        self.name, self.network, self.config = name, network.train(), config
        self.objective = Objective(scheduler, config.min_snr_gamma)
        self.train_data, self.validation_data = train_data, validation_data

    @abstractmethod
    def batch_loss(self, data: Clips, clips: list[int], generator: torch.Generator, text_dropout: float) -> Tensor:
        """The scalar loss of a batch of clips, all randomness drawn from the generator."""

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """All of an image network's parameters, the temporal ones of an inflated network."""
        if isinstance(self.network, SpaceTimeUNet):
            return dict(self.network.named_temporal_parameters())
        return dict(self.network.named_parameters())

    def loss(self, step: int) -> Tensor:
        """One batch's loss."""
        config, seed = self.config, self.config.seed
        clips = batch_indices(len(self.train_data), config.batch_size, step, seed)
        text_dropout = config.text_dropout if isinstance(config, TextOptimConfig) else 0.0
        return self.batch_loss(self.train_data, clips, generator_for(self.name, seed, 0, step), text_dropout)

    def validation_loss(self) -> float | None:
        """Mean loss over held-out clips, the same noise, timesteps and crops or masks each time; None without any."""
        if not len(self.validation_data):
            return None
        self.network.eval()
        clips = torch.linspace(0, len(self.validation_data) - 1, self.validation_clips).round().int().tolist()
        loss = self.batch_loss(self.validation_data, clips, generator_for(f"{self.name}-validation"), 0.0)
        self.network.train()
        return float(loss)

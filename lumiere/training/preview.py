"""Samples while a network trains: the same held-out examples and noise each time, so that steps can be compared."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import default_collate

from lumiere.config import RuntimeConfig
from lumiere.data.pixel_values import from_model_range
from lumiere.data.video_io import write_video
from lumiere.training.diffusion_task import Batch, DiffusionTask
from lumiere.training.loader import to_device
from lumiere.training.parallel import Parallel

STEPS, MIN_SIDE = 10, 96


class SamplePreview:
    """Writes some samples side by side, videos as `<name>-NNNNNNN.mp4`, pictures as `.png`, and hands them on."""

    number = 3

    def __init__(
        self, task: DiffusionTask[Any], scheduler: Any, runtime: RuntimeConfig, folder: Path,
        show: Callable[[Path], None], fps: int = 1,
    ) -> None:  # fmt: skip
        """
        Args:
            task: its held-out clips, or those to train on where none are, give the sentences and what is known.
            scheduler: the network's noise schedule and prediction type.
            runtime: how often, and how strongly guided by the text.
            folder: where it is written.
            show: called with the file by the first process.
            fps: of a video.
        """
        self.task, self.fps = copy.copy(task), fps
        if not task.held_out():
            self.task.validation_data = task.train_data
        self.every, self.guidance_scale = runtime.sample_every, runtime.sample_guidance_scale
        # What x_0 is clipped to is the range of pixels; latents have none, and some schedulers do not say so.
        unclipped = {} if task.space.vae is None else {"clip_sample": False}
        self.scheduler = DDIMScheduler.from_config(
            scheduler.config, timestep_spacing="trailing", **unclipped
        )
        self.folder, self.show = folder, show

    def __call__(self, network: nn.Module, parallel: Parallel, step: int) -> None:
        """Sample with the weights as they are, one example at a time: that takes less memory than training does."""
        if not (parallel.is_main or parallel.is_sharded):  # a sharded network needs all processes
            return
        network = network if parallel.is_sharded else self.task.network
        shown: list[np.ndarray] = []
        for i in range(self.task.held_out())[
            :: -(-self.task.held_out() // self.number)
        ]:  # spread over all of them
            batch = to_device(default_collate([self.task.validation_example(i)]), parallel.device)
            with parallel.autocast():
                shown += [
                    from_model_range(video[0])
                    for video in self.shown(self._sample(network, batch), batch)
                ]
        if parallel.is_main:
            self.show(self._write(shown, f"{self.task.name}-{step:07d}"))

    def shown(self, sample: Tensor, batch: Batch) -> list[Tensor]:
        """What is put side by side of an example, (1, 3, t, h, w) each, in [-1, 1]."""
        return [sample]

    def _sample(self, network: nn.Module, batch: Batch) -> Tensor:
        """Pixels (1, 3, t, h, w) in [-1, 1]; t = 1 for a picture."""
        call = self.task.call(batch)  # for what is known; its noisy video is replaced
        x_t, known = call.noise, call.args[0][:, call.x_0.shape[1] :]
        rows, others = 1, {"encoder_hidden_states": None, **call.kwargs}
        if "prompt_embeds" in batch:  # the empty sentence and its own
            embeds, mask = (
                part.unsqueeze(0).to(known.device) for part in self.task.train_data.null_text
            )
            rows, others["encoder_hidden_states"] = (
                2,
                torch.cat([embeds.float(), batch["prompt_embeds"]]),
            )
            others["encoder_attention_mask"] = torch.cat([mask.long(), batch["prompt_mask"]])
        self.scheduler.set_timesteps(STEPS, device=x_t.device)
        for timestep in self.scheduler.timesteps:
            sample = torch.cat([torch.cat([x_t, known], dim=1)] * rows)
            output = (
                network(sample, timestep.expand(rows), **others).sample[:, : x_t.shape[1]].float()
            )
            guided = torch.lerp(output[:1], output[-1:], self.guidance_scale)  # of one row: itself
            x_t = self.scheduler.step(guided, timestep, x_t).prev_sample
        return self.task.space.decode(x_t if x_t.ndim == 5 else x_t.unsqueeze(2))

    def _write(self, videos: list[np.ndarray], name: str) -> Path:
        """A row of uint8 (t, h, w, 3), small ones enlarged to be seen."""
        factor = -(-MIN_SIDE // videos[0].shape[1])
        row = np.concatenate(videos, axis=2).repeat(factor, axis=1).repeat(factor, axis=2)
        self.folder.mkdir(parents=True, exist_ok=True)
        if len(row) == 1:
            path = self.folder / f"{name}.png"
            Image.fromarray(row[0]).save(path)
        else:
            path = self.folder / f"{name}.mp4"
            write_video(path, row, self.fps)
        return path


class SuperResolutionPreview(SamplePreview):
    """Low resolution, enlarged by the network, the original: a crop of one held-out window, or of a frame."""

    number = 1

    def shown(self, sample: Tensor, batch: Batch) -> list[Tensor]:
        """The three."""
        return [batch["low"], sample, batch["high"]]

"""Sample videos while a network trains: held-out sentences, the same noise each time, so that steps can be compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn
from torch.utils.data import default_collate

from lumiere.config import RuntimeConfig
from lumiere.data.clips import from_model_range
from lumiere.data.video_io import write_video
from lumiere.training.loader import to_device
from lumiere.training.parallel import Parallel
from lumiere.training.task import Batch
from lumiere.training.video import SpaceTimeTask

VIDEOS, STEPS, MIN_SIDE = 3, 10, 96


class VideoPreview:
    """Writes `step-NNNNNNN.mp4`, a few videos side by side, and hands it on."""

    def __init__(
        self, task: SpaceTimeTask, scheduler: Any, runtime: RuntimeConfig, fps: int, folder: Path,
        show: Callable[[Path], None],
    ) -> None:  # fmt: skip
        """
        Args:
            task: its held-out clips give the sentences and, for conditioned training, the known parts.
            scheduler: the network's noise schedule and prediction type.
            runtime: how often, and how strongly guided by the text.
            fps: of the video.
            folder: where it is written.
            show: called with the file by the first process.
        """
        self.task, self.fps = task, fps
        self.every, self.guidance_scale = runtime.sample_every, runtime.sample_guidance_scale
        # What x_0 is clipped to is the range of pixels; latents have none, and some schedulers do not say so.
        unclipped = {} if task.space.vae is None else {"clip_sample": False}
        self.scheduler = DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing", **unclipped)
        self.folder, self.show = folder, show

    def __call__(self, network: nn.Module, parallel: Parallel, step: int) -> None:
        """Sample with the weights as they are."""
        number = min(VIDEOS, self.task.held_out())
        if not number or not (parallel.is_main or parallel.is_sharded):  # a sharded network needs all processes
            return
        network.eval()
        batch = to_device(default_collate([self.task.validation_example(i) for i in range(number)]), parallel.device)
        with parallel.autocast():
            videos = self._sample(network if parallel.is_sharded else self.task.network, batch)
        network.train()
        if parallel.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"step-{step:07d}.mp4"
            write_video(path, _side_by_side(videos), self.fps)
            self.show(path)

    def _sample(self, network: nn.Module, batch: Batch) -> Tensor:
        """Pixels (b, 3, t, h, w) in [-1, 1]."""
        embeds, mask = (part.to(batch["prompt_mask"].device) for part in self.task.train_data.null_text)
        number = len(batch["prompt_mask"])
        unguided = {
            "prompt_embeds": embeds.float().expand(number, *embeds.shape),
            "prompt_mask": mask.long().expand(number, *mask.shape),
        }
        call = self.task.call(batch)  # for what is known; its noisy video is replaced
        known = call.args[0][:, call.x_0.shape[1] :].repeat(2, 1, 1, 1, 1)
        x_t = call.noise
        text = [torch.cat([unguided[name], batch[name]]) for name in unguided]
        self.scheduler.set_timesteps(STEPS, device=x_t.device)
        for timestep in self.scheduler.timesteps:
            sample = torch.cat([x_t.repeat(2, 1, 1, 1, 1), known], dim=1)
            output = network(sample, timestep.expand(2 * number), *text, **call.kwargs).sample
            negative, positive = output[:, : x_t.shape[1]].float().chunk(2)
            guided = negative + self.guidance_scale * (positive - negative)
            x_t = self.scheduler.step(guided, timestep, x_t).prev_sample
        return self.task.space.decode(x_t)


def _side_by_side(videos: Tensor) -> np.ndarray:
    """uint8 (t, h, b w, 3), small ones enlarged to be seen."""
    factor = -(-MIN_SIDE // videos.shape[-1])
    row = np.concatenate([from_model_range(video) for video in videos], axis=2)
    return row.repeat(factor, axis=1).repeat(factor, axis=2)

"""Makes samples while a network trains, from the same held-out examples and noise each time, so
that steps can be compared.

Sampling uses the same denoising loop, text guidance and decoding as the pipelines.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import default_collate

from lumiere.config import RuntimeConfig
from lumiere.data.pixel_values import from_model_range
from lumiere.data.video_io import write_video
from lumiere.diffusion.denoising import sample_whole
from lumiere.diffusion.guidance import TextGuidance
from lumiere.diffusion.objective import without_variance
from lumiere.training.diffusion_task import Batch, DiffusionTask, NetworkInput
from lumiere.training.loader import to_device
from lumiere.training.parallel import Parallel

if TYPE_CHECKING:
    from lumiere.training.distillation_task import DistillationTask

STEPS, MIN_SIDE = 10, 96


class SamplePreview:
    """Writes some samples side by side as `<task name>-<step>.mp4` or `.png`."""

    number = 3
    steps = STEPS
    timestep_power = 1.0

    def __init__(
        self,
        task: DiffusionTask[Any],
        runtime: RuntimeConfig,
        folder: Path,
        show: Callable[[Path], None],
        fps: int = 1,
    ) -> None:
        """
        Args:
            task: provides the sentences and the known pixels from its held-out clips, or from its
                training clips if none are held out.
            runtime: how often to sample, and with which guidance scale.
            folder: where to write the files.
            show: called in the first process with each file.
            fps: frames per second of a video.
        """
        self.task, self.fps = copy.copy(task), fps
        if not task.held_out():
            self.task.validation_data = task.train_data
        self.every, self.guidance_scale = runtime.sample_every, runtime.sample_guidance_scale
        settings: dict[str, Any] = {"timestep_spacing": "trailing"}
        if task.space.vae is not None:
            # Clipping x_0 to [-1, 1] suits pixels. Latents exceed that range, but some schedulers'
            # configs still ask for clipping.
            settings["clip_sample"] = False
        self.scheduler = DDIMScheduler.from_config(task.scheduler.config, **settings)
        self.folder, self.show = folder, show

    def __call__(self, network: nn.Module, parallel: Parallel, step: int) -> None:
        """Sample with the network's weights, one example at a time to save memory."""
        if not (parallel.is_main or parallel.is_sharded):  # a sharded network needs all processes
            return
        videos: list[np.ndarray] = []
        for i in self._examples():
            batch = to_device(default_collate([self.task.validation_example(i)]), parallel.device)
            with parallel.autocast():
                sample = self._sample(network, batch)
            videos += [from_model_range(video[0]) for video in self.side_by_side(sample, batch)]
        if parallel.is_main:
            self.show(self._write(videos, f"{self.task.name}-{step:07d}"))

    def side_by_side(self, sample: Tensor, batch: Batch) -> list[Tensor]:
        """Return the videos to show for an example, (1, 3, t, h, w) each, in [-1, 1]."""
        return [sample]

    def _examples(self) -> range:
        """Choose the validation examples to show, spread over all of them."""
        total = self.task.held_out()
        return range(0, total, -(-total // self.number))

    def _sample(self, network: nn.Module, batch: Batch) -> Tensor:
        """Sample pixels (1, 3, t, h, w) in [-1, 1]; t = 1 for a picture."""
        noised = self.task.noised(batch)  # its noise and conditioning; its noisy video is not used
        inputs, noise = noised.inputs, noised.noise
        conditions = [] if inputs.conditioning is None else [inputs.conditioning]

        def predict(model_input: Tensor, timestep: Tensor) -> Tensor:
            if inputs.prompt_embeds is not None:
                guidance = self._guidance(inputs)
                return guidance.predict(network, model_input, timestep, num_channels=noise.shape[1])
            without_text = NetworkInput(model_input, timestep, class_labels=inputs.class_labels)
            return without_variance(without_text.call(network), noise.shape[1])

        x_0 = sample_whole(
            self.scheduler,
            predict,
            noise,
            conditions,
            self.steps,
            generators=[torch.Generator()],
            timestep_power=self.timestep_power,
        )
        return self.task.space.decode(x_0 if x_0.ndim == 5 else x_0.unsqueeze(2))

    def _guidance(self, inputs: NetworkInput) -> TextGuidance:
        """Make guidance that leads from the empty sentence towards the example's own."""
        assert inputs.prompt_embeds is not None and inputs.prompt_mask is not None
        null_embeds, null_mask = self.task.train_data.null_text
        return TextGuidance(
            inputs.prompt_embeds,
            inputs.prompt_mask,
            null_embeds.unsqueeze(0).to(inputs.prompt_embeds),
            null_mask.unsqueeze(0).to(inputs.prompt_mask),
            self.guidance_scale,
            rescale=0.0,
        )

    def _write(self, videos: list[np.ndarray], name: str) -> Path:
        """Write a row of videos, uint8 (t, h, w, 3); small ones are enlarged."""
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


class FewStepPreview(SamplePreview):
    """Shows a distilled network as it will be used: by its sampler, without guidance."""

    def __init__(self, task: DistillationTask, *args: Any, **kwargs: Any) -> None:
        """The arguments are those of `SamplePreview`."""
        super().__init__(task, *args, **kwargs)
        self.steps, self.guidance_scale = task.settings.num_inference_steps, 1.0
        self.timestep_power = task.settings.timestep_power
        self.scheduler = task.student_sampler()


class SuperResolutionPreview(SamplePreview):
    """Shows a crop of a held-out window or frame: low resolution, enlarged, original."""

    number = 1

    def side_by_side(self, sample: Tensor, batch: Batch) -> list[Tensor]:
        """Return the low resolution, the sample and the original."""
        return [batch["low"], sample, batch["high"]]

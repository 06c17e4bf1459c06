"""Stage `distil`: the conditioned network, distilled to few steps without guidance."""

from __future__ import annotations

import shutil

import torch

import stages
from lumiere.config import load_params
from lumiere.data.frame_sizes import shorter_side
from lumiere.distilled import DistilledSettings, write_distilled
from lumiere.models import SpaceTimeUNet
from lumiere.models.autoencoder import load_vae
from lumiere.models.text_to_image import image_size, load_scheduler, save_companions
from lumiere.training.distillation_task import DistillationTask, make_student
from lumiere.training.examples import open_clips
from lumiere.training.preview import FewStepPreview
from stages.training import training_stage


def main() -> None:
    """Parse, distil, write; with 0 steps, leave an empty folder."""
    arguments = stages.parse_arguments(
        __doc__,
        clips="the decoded clips",
        conditioned="the conditioned Space-Time U-Net, which is the teacher",
        out="folder for the distilled Space-Time U-Net",
        scratch="training state",
    )
    params = load_params(arguments.params)
    config = params.distil
    if not config.optim.steps:
        shutil.rmtree(arguments.out, ignore_errors=True)
        arguments.out.mkdir(parents=True)
        print(f"distil.optim.steps is 0, so {arguments.out} stays empty")
        return
    inputs = [__file__, arguments.clips, arguments.conditioned]
    with training_stage("distil", arguments, params, inputs) as stage:
        torch.manual_seed(config.optim.seed)
        with stages.reading(arguments.conditioned):
            teacher = SpaceTimeUNet.from_pretrained(
                arguments.conditioned, torch_dtype=torch.float32
            )
            scheduler = load_scheduler(arguments.conditioned / "scheduler")
            vae = load_vae(arguments.conditioned / "vae")
        with stages.reading(arguments.clips):
            size = shorter_side(image_size(teacher.unet, vae))
            train_clips, held_out = open_clips(arguments.clips, size, params.runtime.cache_mb)
        student = make_student(teacher, config.trained)
        with stages.blaming(arguments.params, "distil"):
            task = DistillationTask(
                "distil",
                student,
                scheduler,
                train_clips,
                held_out,
                config.optim,
                vae,
                mask_weights=config.mask_weights,
                noise_correlation=config.noise_correlation,
                teacher=teacher,
                settings=config,
            )
        store = train_clips.store
        stage.train(task, store.fps, FewStepPreview)
        if stage.is_main:
            student.save_pretrained(arguments.out)
            settings = DistilledSettings(
                config.num_inference_steps, config.noise_correlation, config.timestep_power
            )
            write_distilled(arguments.out, settings)
            sampler = task.student_sampler()
            save_companions(arguments.out, sampler, store.text_encoder, store.max_text_tokens, vae)


if __name__ == "__main__":
    stages.run(main)

"""Compare ways to sample from the base video model: quality against forward passes.

    PYTHONPATH=. python -m benchmarks.sampling --clips outputs/clips --work /tmp/sampling
    PYTHONPATH=. python -m benchmarks.sampling ... --only "default;no guidance" --captions 100
    PYTHONPATH=. python -m benchmarks.sampling ... --fast --only "default;2 steps"
    PYTHONPATH=. python -m benchmarks.sampling ... --guide FOLDER --only "default;autoguidance 2"
    PYTHONPATH=. python -m benchmarks.sampling ... --image-model pretrained/t2i --only default
    PYTHONPATH=. python -m benchmarks.sampling ... --as-trained --only "default;no guidance"

Every variant makes the same videos, one per source video, from the same noise. They are compared
with the real clips of their captions as in the evaluate stage. The clips of a variant are kept in
the work folder, so a second call continues where the first one stopped; use a new folder for other
weights, also of the guide. One forward pass means one clip through a network once; with guidance a
step takes two. Variants of autoguidance need a guide, a weaker network (`--guide`). With
`--image-model`, a text-to-image model makes pictures instead, and each is repeated as a clip that
stands still. This shows how much of a distance is due to the image model, and how much to the
layers over time. Only the scores of single frames mean something then. With `--as-trained`, motion
is not scaled, and neither flicker nor speckle is smoothed, in all variants. The column `steps` is
the squared change from frame to frame at the borders of blocks of four frames, which the coarsest
level of the demo's network sees as one, divided by that of the other pairs.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from lumiere.config import GenerateConfig
from lumiere.evaluation.clip_sets import RealClips, match_clips
from lumiere.evaluation.comparison import compare, measure_sets
from lumiere.evaluation.folders import load_networks
from lumiere.evaluation.scores import flat
from lumiere.pipelines import LumierePipeline
from lumiere.pipelines.assemble import (
    PRETRAINED,
    demo_pipeline,
    image_pipeline,
    load_guide,
)
from lumiere.pipelines.evaluation_sets import draw_captions, make_clips, plan_clips
from lumiere.pipelines.input_files import Clips
from lumiere.sample_files import TEXT_TO_VIDEO, SetEntry, read_set, write_set

COLUMNS = (
    "independent_frechet", "independent_kernel", "independent_similarity", "frame_change",
    "motion_px", "background_flicker", "background_noise",
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """The settings in which a variant differs from the model's own.

    Attributes:
        settings: of the pipeline.
        scheduler: a class of diffusers; empty for the model's own.
        scheduler_settings: changes of the scheduler's config.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    scheduler: str = ""
    scheduler_settings: dict[str, Any] = field(default_factory=dict)

    @property
    def needs_guide(self) -> bool:
        """Return whether the variant is one of autoguidance."""
        return self.settings.get("guidance_type") == "auto"


CLIPPED = {"clip_sample": True}
WHOLE = {"guidance_interval": [0.0, 1.0]}
DPM = "DPMSolverMultistepScheduler"
DDIM = "DDIMScheduler"
SDE = {"algorithm_type": "sde-dpmsolver++"}
STRONG = {"guidance_scale": 3.0}
ORTHOGONAL = {"guidance_eta": 0.0}
# With the demo weights, this limit acts in about the noisiest third of the steps.
LIMITED = {**ORTHOGONAL, "guidance_threshold": 0.1}
AUTO: dict[str, Any] = {"guidance_type": "auto"}
AS_TRAINED = {"motion_scale": 1.0, "temporal_smoothing": 0.0, "spatial_smoothing": 0.0}
MOTIONS = (  # scale, from noise level, smoothing, in noise levels
    (1.0, 0.35, 1.0, (0.0, 0.3)),
    (2.25, 0.4, 1.0, (0.0, 0.3)),
    *((scale, 0.2, 0.0, (0.0, 0.3)) for scale in (1.25, 1.5, 2.0, 3.0)),
    (1.5, 0.35, 0.0, (0.0, 0.3)),
    (1.4, 0.25, 1.0, (0.0, 0.3)),
    (1.5, 0.35, 1.0, (0.0, 0.3)),
    (1.6, 0.35, 1.0, (0.0, 0.3)),
    (2.0, 0.4, 0.0, (0.0, 0.3)),
    (1.5, 0.5, 0.0, (0.0, 0.3)),
    (2.0, 0.5, 0.0, (0.0, 0.3)),
    (2.0, 0.5, 0.6, (0.0, 0.3)),
    (2.25, 0.5, 1.0, (0.0, 0.3)),
    (2.0, 0.4, 0.8, (0.0, 0.3)),
)
VARIANTS = {
    "default": Variant(),
    **{
        f"motion {scale:g} from {low:g}, smoothing {smoothing:g} in {ends[0]:g} to {ends[1]:g}": Variant(
            {
                "motion_scale": scale,
                "motion_interval": [low, 0.95],
                "temporal_smoothing": smoothing,
                "smoothing_interval": list(ends),
            }
        )
        for scale, low, smoothing, ends in MOTIONS
    },
    "clipped, rescaled, guided at every step": Variant(
        {"guidance_rescale": 0.7, **WHOLE}, scheduler_settings=CLIPPED
    ),
    "clipped": Variant(scheduler_settings=CLIPPED),
    "rescale 0.7": Variant({"guidance_rescale": 0.7}),
    "guided at every step": Variant(WHOLE),
    "guided for t in 0 to 0.9": Variant({"guidance_interval": [0.0, 0.9]}),
    "guided for t in 0.4 to 0.9": Variant({"guidance_interval": [0.4, 0.9]}),
    "no guidance": Variant({"guidance_scale": 1.0}),
    "guidance 1.5": Variant({"guidance_scale": 1.5}),
    "guidance 2": Variant({"guidance_scale": 2.0}),
    **{
        f"spatial smoothing {levels:g}": Variant({"spatial_smoothing": levels})
        for levels in (0.0, 3.0, 6.0, 10.0, 14.0, 20.0)
    },
    "guidance 3": Variant(STRONG),
    "guidance 3 at every step": Variant({**STRONG, **WHOLE}),
    "APG eta 0": Variant(ORTHOGONAL),
    "APG eta 0, guidance 3": Variant({**STRONG, **ORTHOGONAL}),
    "APG eta 0, guidance 3 at every step": Variant({**STRONG, **WHOLE, **ORTHOGONAL}),
    "APG eta 0, threshold 0.1, guidance 3 at every step": Variant({**STRONG, **WHOLE, **LIMITED}),
    "APG eta 0, threshold 0.1, momentum -0.5, guidance 3 at every step": Variant(
        {**STRONG, **WHOLE, **LIMITED, "guidance_momentum": -0.5}
    ),
    "autoguidance 1.5": Variant({**AUTO, "guidance_scale": 1.5}),
    "autoguidance 2": Variant({**AUTO, "guidance_scale": 2.0}),
    "autoguidance 2 at every step": Variant({**AUTO, "guidance_scale": 2.0, **WHOLE}),
    "autoguidance 3, APG eta 0": Variant({**AUTO, **STRONG, **ORTHOGONAL}),
    **{
        f"power {power:g}": Variant({"timestep_power": power})
        for power in (1.0, 1.5, 2.0, 2.5, 3.0)
    },
    **{f"{steps} steps": Variant({"num_inference_steps": steps}) for steps in (2, 3, 6, 10)},
    "8 steps, power 2": Variant({"num_inference_steps": 8, "timestep_power": 2.0}),
    "50 steps": Variant({"num_inference_steps": 50}),
    "noise correlation 0": Variant({"noise_correlation": 0.0}),
    "noise correlation 0.3": Variant({"noise_correlation": 0.3}),
    "noise correlation 0.6": Variant({"noise_correlation": 0.6}),
    "noise correlation 0.9": Variant({"noise_correlation": 0.9}),
    "DDIM": Variant(scheduler=DDIM),
    "DDIM, 10 steps": Variant({"num_inference_steps": 10}, DDIM),
    "DDIM, 50 steps": Variant({"num_inference_steps": 50}, DDIM),
    "SDE-DPM++": Variant(scheduler=DPM, scheduler_settings=SDE),
    "DPM++": Variant(scheduler=DPM),
    "DPM++, 10 steps": Variant({"num_inference_steps": 10}, DPM),
    "UniPC, 10 steps": Variant({"num_inference_steps": 10}, "UniPCMultistepScheduler"),
}


def choose_variants(only: str, has_guide: bool) -> list[str]:
    """Return the names of the variants to run, in order.

    Args:
        only: some of `VARIANTS`, separated by ;, or empty for all that can run.
        has_guide: whether there is a network for autoguidance.

    Raises:
        ValueError: if there is no such variant, or it needs a guide that is missing.
    """
    if not only:
        return [name for name in VARIANTS if has_guide or not VARIANTS[name].needs_guide]
    names = only.split(";")
    for name in names:
        if name not in VARIANTS:
            raise ValueError(f"no variant {name!r}; there are {'; '.join(VARIANTS)}")
        if VARIANTS[name].needs_guide and not has_guide:
            raise ValueError(f"variant {name!r} needs a weaker network; name it with --guide")
    return names


def apply(pipe: LumierePipeline, variant: Variant, original: Any) -> None:
    """Set the pipeline's settings and its scheduler, starting from the model's own."""
    scheduler = getattr(diffusers, variant.scheduler or type(original).__name__)
    pipe.register_modules(
        scheduler=scheduler.from_config(original.config, **variant.scheduler_settings)
    )
    pipe.register_to_config(**variant.settings)


def read_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, required=True, help="output of the decode stage")
    parser.add_argument("--work", type=Path, required=True, help="folder for clips and results")
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--model", type=Path, help="a saved pipeline (default: the demo weights)")
    models.add_argument(
        "--image-model", type=Path, help="a text-to-image model: pictures that stand still"
    )
    models.add_argument(
        "--fast", action="store_true", help="the distilled network of the demo weights, as --fast"
    )
    parser.add_argument(
        "--guide",
        type=Path,
        help="a weaker network for autoguidance: a folder of SpaceTimeUNet.save_pretrained, or of "
        "save_temporal for the image model of the base network",
    )
    parser.add_argument("--captions", type=int, default=100, help="videos (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the first video's noise")
    parser.add_argument("--held-out", action="store_true", help="captions of held-out videos")
    parser.add_argument("--only", help=f"some of: {'; '.join(VARIANTS)} (separated by ;)")
    parser.add_argument(
        "--as-trained", action="store_true", help="without a change of motion, flicker and speckle"
    )
    parser.add_argument("--threads", type=int, default=0, help="of torch (default: torch's own)")
    return parser.parse_args()


def main() -> None:
    """Sample, measure and print a table."""
    arguments = read_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        names = choose_variants(arguments.only or "", arguments.guide is not None)
    except ValueError as error:
        sys.exit(f"error: {error}")

    clips = Clips(arguments.clips)
    captions = draw_captions(clips.stores[arguments.held_out], arguments.captions, seed=0)
    pipe, passes = load_pipeline(arguments), [0]
    original, settings = pipe.scheduler, dict(pipe.config)
    for network in filter(None, (pipe.unet, pipe.guide_unet)):
        network.register_forward_pre_hook(lambda _, inputs: count(passes, inputs[0]))
    networks = load_networks((), cache=str(arguments.work / "features"))
    num_frames = clips.stores[0].num_frames if arguments.image_model else pipe.config.num_frames
    entries = plan_clips(captions, TEXT_TO_VIDEO, GenerateConfig(seed=arguments.seed))
    for name in names:
        noise = f" seed {arguments.seed}" if arguments.seed else ""
        folder = arguments.work / f"{name}{noise}".replace(" ", "_").replace(",", "")
        record = folder / "cost.csv"
        if not record.is_file():
            pipe.register_to_config(**settings)
            apply(pipe, VARIANTS[name], original)
            passes[0], began = 0, time.monotonic()
            made = make_clips(pipe, entries, 20 if arguments.image_model else 4, name)
            write_set(folder, TEXT_TO_VIDEO, stand_still(made, num_frames))
            seconds = time.monotonic() - began
            record.write_text(f"{passes[0] / len(entries)},{seconds / len(entries)}\n")
        with open(record, newline="") as file:
            per_clip, seconds = (float(value) for value in next(csv.reader(file)))
        steps = block_steps(frames for _, frames in read_set(folder, TEXT_TO_VIDEO))
        sets = match_clips(read_set(folder, TEXT_TO_VIDEO), RealClips(arguments.clips, num_frames))
        scores = compare(sets, measure_sets(sets, networks), networks).scores
        values = flat(scores)
        if name == names[0]:
            show_header()
            floors = [values.get(f"{column}_floor", nan) for column in COLUMNS]
            show("real clips", [0, 0, *floors, nan])
        show(name, [per_clip, seconds, *(values.get(column, nan) for column in COLUMNS), steps])


def load_pipeline(arguments: argparse.Namespace) -> LumierePipeline:
    """Load the model that the arguments name, with its guide."""
    if arguments.image_model:
        pipe = image_pipeline(arguments.image_model)
        pipe.register_to_config(num_frames=1)
    elif arguments.model:
        pipe = LumierePipeline.from_pretrained(arguments.model)
    else:
        pipe = demo_pipeline()
    if arguments.fast:
        pipe.load_distilled(PRETRAINED / "fast")
    if arguments.guide:
        pipe.add_guide(load_guide(pipe.unet, arguments.guide))
    if arguments.as_trained:
        pipe.register_to_config(**AS_TRAINED)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def block_steps(clips: Iterable[np.ndarray]) -> float:
    """Return the change at the borders of blocks of 4 frames, divided by the change elsewhere."""
    squares = [(np.diff(clip.astype(np.float64), axis=0) ** 2).mean((1, 2, 3)) for clip in clips]
    changes = np.mean([change[:15] for change in squares], axis=0)
    is_border = np.arange(len(changes)) % 4 == 3
    others = changes[~is_border].mean()
    return float(changes[is_border].mean() / others) if others else nan


def stand_still(
    clips: Iterable[tuple[SetEntry, np.ndarray]], num_frames: int
) -> Iterator[tuple[SetEntry, np.ndarray]]:
    """Repeat the picture of clips of one frame; other clips stay as they are."""
    for entry, frames in clips:
        yield entry, frames.repeat(num_frames, axis=0) if len(frames) == 1 else frames


def count(passes: list[int], model_input: torch.Tensor) -> None:
    """Add the clips that a forward pass takes."""
    passes[0] += len(model_input)


def show_header() -> None:
    """Print the header of a Markdown table."""
    print("| " + " | ".join(["variant", "passes", "seconds", *COLUMNS, "steps"]) + " |")
    print("|---" + "|---:" * (len(COLUMNS) + 3) + "|")


def show(name: str, values: Sequence[float]) -> None:
    """Print a row of the table; the row of the real clips has the floors."""
    print("| " + " | ".join([name, *(f"{value:.4g}" for value in values)]) + " |", flush=True)


if __name__ == "__main__":
    main()

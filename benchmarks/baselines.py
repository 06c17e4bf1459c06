"""Compares our network with two baselines at equal compute: a keyframe cascade and He start.

    python benchmarks/baselines.py --steps 300             # needs the clips of `make demo`
    python benchmarks/baselines.py --quick                 # a smoke test at tiny sizes

The cascade has a keyframe network on every 4th frame, and a network that fills in segments
(temporal super-resolution, TSR). Neither resamples time, as is usual in such systems. Ours gets the
number of temporal attention layers that brings it nearest to the parameters of the two together.
Compute is counted FLOPs of forward and backward passes: ours does `--steps` steps, and each network
of the cascade as many as half of that compute allows. He start (the paper's ablation) is ours with
random temporal resampling, and sees the same data and noise at every step. All start from the image
model, with their other temporal layers at the identity. If you run the same command again, it
continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import benchmarks  # noqa: F401  a script has to import it itself, before diffusers

# isort: split

import torch
from diffusers import SchedulerMixin, UNet2DConditionModel
from torch.utils.data import default_collate

from benchmarks.baselines_measure import MeasureSettings, draw, measure, sample
from lumiere.baselines.keyframe_cascade import KeyframeTask, TemporalSuperResolutionTask
from lumiere.config import Params, TextOptimConfig
from lumiere.data.clips import ClipStore
from lumiere.models import SpaceTimeUNet
from lumiere.models.pretrained import load_text_to_image
from lumiere.training.examples import StoredClips
from lumiere.training.loop import train
from lumiere.training.space_time_task import SpaceTimeTask
from lumiere.training.staged_training import StagedTraining
from lumiere.training.state import TrainingResult

OURS, HE, KEYFRAMES, TSR = "ours", "ours, He start", "cascade: keyframes", "cascade: TSR"


@dataclass(frozen=True)
class TrainSettings:
    """The settings of the trainings."""

    steps: int  # of ours
    batch_size: int = 4
    learning_rate: float = 5e-4
    stride: int = 4
    size: int = 32
    seed: int = 0


@dataclass
class Contender:
    """A network, its training and the cost of that."""

    task: SpaceTimeTask
    steps: int
    gflop_per_step: float
    result: TrainingResult | None = None

    @property
    def network(self) -> SpaceTimeUNet:
        return self.task.network

    def row(self) -> dict[str, Any]:
        assert self.result is not None
        return {
            "temporal_parameters": count(self.network),
            "frames": int(self.task.example(0)["video"].shape[1]),
            "steps": self.steps,
            "gflop_per_step": self.gflop_per_step,
            "tflop": self.gflop_per_step * self.steps / 1e3,
            "seconds": self.result.seconds,
            "loss": self.result.losses,
            "validation_loss": self.result.validation,
        }


def count(*networks: SpaceTimeUNet) -> int:
    """The number of temporal parameters."""
    return sum(p.numel() for network in networks for p in network.temporal_parameters())


def build(unet2d: UNet2DConditionModel, seed: int) -> dict[str, SpaceTimeUNet]:
    """The networks; ours is as near in size to the cascade's two together as whole layers allow."""

    def inflate(channels: int = 0, **settings: Any) -> SpaceTimeUNet:
        torch.manual_seed(seed)
        return SpaceTimeUNet.from_unet2d(unet2d, channels, **settings)

    plain: dict[str, Any] = {"temporal_resampling": False, "mid_attention_layers": 1}
    networks = {KEYFRAMES: inflate(**plain), TSR: inflate(unet2d.config.in_channels + 1, **plain)}
    least = inflate(mid_attention_layers=1)
    assert least.mid_inflation is not None, (
        "temporal attention in a mid block makes up for the size"
    )
    layer = sum(p.numel() for p in least.mid_inflation.layers[0].parameters())
    layers = max(1, 1 + round((count(*networks.values()) - count(least)) / layer))
    networks[OURS] = inflate(mid_attention_layers=layers)
    networks[HE] = inflate(mid_attention_layers=layers, resampling_init="he")
    return networks


def plan(
    networks: dict[str, SpaceTimeUNet],
    scheduler: SchedulerMixin,
    data: list[StoredClips],
    settings: TrainSettings,
) -> dict[str, Contender]:
    """Tasks and numbers of steps, at equal compute."""
    config = TextOptimConfig(
        steps=settings.steps, batch_size=settings.batch_size, learning_rate=settings.learning_rate, ema_decay=0.99,
        warmup_steps=settings.steps // 10, checkpoint_every=20, log_every=5, seed=settings.seed,
        validate_every=max(1, settings.steps // 6),
    )  # fmt: skip
    # The name seeds what is drawn. Ours and He start share it, so they see the same noise.
    make: dict[str, Any] = {name: partial(SpaceTimeTask, "clips") for name in (OURS, HE)}
    make |= {KEYFRAMES: partial(KeyframeTask, "keyframes", stride=settings.stride)}
    make |= {TSR: partial(TemporalSuperResolutionTask, "segments", stride=settings.stride)}
    contenders: dict[str, Contender] = {}
    for name in (OURS, KEYFRAMES, TSR, HE):
        task = make[name](
            network=networks[name],
            scheduler=scheduler,
            train_data=data[0],
            validation_data=data[1],
            config=config,
        )
        batch = default_collate([task.example(i) for i in range(config.batch_size)])
        gflop = task.flops(batch) / 1e9
        steps = settings.steps
        if name in (KEYFRAMES, TSR):
            steps = round(settings.steps * contenders[OURS].gflop_per_step / gflop / 2)
            task.config = replace(
                config, steps=steps, warmup_steps=steps // 10, validate_every=max(1, steps)
            )
        contenders[name] = Contender(task, steps, gflop)
    return contenders


def table(rows: dict[str, dict[str, Any]], scores: dict[str, dict[str, float]]) -> str:
    """Both tables in Markdown."""
    columns = ["network", "frames", "temporal parameters", "GFLOP a step", "steps", "TFLOP"]
    columns += ["seconds", "held-out loss"]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for name, row in rows.items():
        loss = format(row["validation_loss"][-1][1], ".4f") if row["validation_loss"] else "–"
        lines.append(
            f"| {name} | {row['frames']} | {row['temporal_parameters']:,} | "
            f"{row['gflop_per_step']:.0f} | {row['steps']} | {row['tflop']:.1f} | "
            f"{row['seconds']:.0f} | {loss} |"
        )
    names = list(scores)
    lines += ["", f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for key in scores[names[0]]:
        lines.append(
            f"| {key} | {' | '.join(format(scores[name][key], '.4g') for name in names)} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Train, sample, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=300,
        help="steps of ours, which set the compute; 0: untrained; default: 300",
    )
    parser.add_argument("--batch-size", type=int, default=4, help="default: 4")
    parser.add_argument(
        "--videos", type=int, default=24, help="held-out captions to sample; default: 24"
    )
    parser.add_argument("--sampling-steps", type=int, default=12, help="default: 12")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; default: 1")
    parser.add_argument(
        "--clips", type=Path, default=Path("outputs/clips"), help="what the decode stage wrote"
    )
    parser.add_argument("--t2i", type=Path, default=Path("pretrained/t2i"))
    parser.add_argument("--out", type=Path, default=Path("outputs/baselines"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to check that it runs")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    settings = TrainSettings(options.steps, options.batch_size)
    measured = MeasureSettings(options.videos, options.sampling_steps)
    if options.quick:
        settings = TrainSettings(steps=2, batch_size=2, size=8)
        measured = MeasureSettings(videos=3, sampling_steps=2)

    t2i = load_text_to_image(options.t2i)
    t2i.use_at(settings.size)
    data = [
        StoredClips(ClipStore(options.clips, split), settings.size)
        for split in ("train", "validation")
    ]
    networks = build(t2i.unet, settings.seed)
    contenders = plan(networks, t2i.scheduler, data, settings)
    inputs = [__file__, options.clips, options.t2i]
    training = StagedTraining(options.out / "scratch", Params(), settings, inputs)
    training.claim()
    scratch = training.folder
    for name, contender in contenders.items():
        print(
            f"{name}: {count(contender.network):,} temporal parameters, {contender.steps} steps of "
            f"{contender.gflop_per_step:.0f} GFLOP", flush=True,
        )  # fmt: skip
    for name, contender in contenders.items():
        contender.result = train(contender.task, scratch / name.replace(": ", "-"))
        contender.network.eval()
    rows = {name: contender.row() for name, contender in contenders.items()}

    cascade = networks[KEYFRAMES], networks[TSR]
    videos = sample(
        networks[OURS], cascade, settings.stride, t2i.scheduler, data[1], measured, scratch
    )
    scores = measure(videos, settings.stride, options.clips, measured)
    options.out.mkdir(parents=True, exist_ok=True)
    record = {"settings": asdict(settings) | asdict(measured), "training": rows, "scores": scores}
    (options.out / "baselines.json").write_text(
        json.dumps(record, indent=1) + "\n", encoding="utf-8"
    )
    losses = {name: rows[name]["validation_loss"] for name in (OURS, HE)}
    draw(options.out / "baselines.png", losses, videos, settings.stride)
    print(table(rows, scores))


if __name__ == "__main__":
    main()

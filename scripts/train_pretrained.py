"""Train the demo's text-to-image model for a number of minutes; a later call goes on where this one stopped.

    PYTHONPATH=. python scripts/train_pretrained.py --work /tmp/pretraining --minutes 10

The state (weights, averages, optimiser, step) is one safetensors file in the work folder. It is written every few
minutes, at the end and on SIGTERM. `--export` writes the weights in fp16 instead of training.

The learning rate is constant after the warm-up, so that a training may stop at any time; the averages stand for its
decay. `--decay-minutes` lowers it to zero over the last minutes of a call.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from pretraining_data import BACKGROUND, PretrainingData, load_or_prepare
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumiere.diffusion.objective import Objective, make_scheduler
from lumiere.models.diffusers_folders import load_network
from lumiere.training.seeding import generator_for

ROOT = Path(__file__).resolve().parent.parent
STATE, LOG, RECORD = "state.safetensors", "loss.csv", "state.json"
VALIDATION = 128  # held-out pictures


@dataclass(frozen=True)
class Settings:
    """`profiles/pretrained.yaml`. Lengths are in pictures, so that they hold for any batch size."""

    init_from: str = "pretrained/t2i/unet"
    frames_per_video: int = 24
    batch_size: int = 16
    learning_rate: float = 0.0005
    beta_2: float = 0.99
    weight_decay: float = 0.01
    warmup: int = 3200
    max_grad_norm: float = 1.0
    text_dropout: float = 0.1
    min_snr_gamma: float = 0.0
    max_shift: int = 1
    tint: float = 0.04
    precision: str = "bf16"  # of the forward pass; weights and averages are float32
    ema_lengths: tuple[int, ...] = (16000, 64000)
    seed: int = 0


def read_settings(path: Path) -> Settings:
    """Settings from a YAML file.

    Raises:
        ValueError: on a key that there is not.
    """
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if unknown := sorted(set(values) - {field.name for field in fields(Settings)}):
        allowed = ", ".join(field.name for field in fields(Settings))
        raise ValueError(f"{path}: {unknown[0]}: no such setting; allowed: {allowed}")
    if values.get("precision", "bf16") not in ("bf16", "fp32"):
        raise ValueError(f"{path}: precision is {values['precision']!r}; allowed: bf16, fp32")
    values["ema_lengths"] = tuple(values.get("ema_lengths", Settings.ema_lengths))
    return Settings(**values)


# --- batches ----------------------------------------------------------------------------------------------------------


@dataclass
class Batch:
    """x_0 and noise (b, 3, 32, 32) in [-1, 1] and normal; timesteps (b,); text states (b, 32, 384) and mask (b, 32)."""

    x_0: Tensor
    noise: Tensor
    timesteps: Tensor
    prompt_embeds: Tensor
    prompt_mask: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


class Batches:
    """Batches by step: what a step sees follows from the seed and its number alone."""

    def __init__(self, data: PretrainingData, settings: Settings, objective: Objective) -> None:
        self.data, self.settings, self.objective = data, settings, objective
        self.empty = len(data.prompt_mask) - 1
        # Subject i has the captions from entry i to entry i + 1.
        self.caption_ends = data.caption_weights.double().cumsum(0)

    def at(self, step: int) -> Batch:
        """The training batch of a step."""
        generator = generator_for("pretraining", self.settings.seed, step)
        size = self.settings.batch_size
        subjects = torch.multinomial(self.data.weights, size, replacement=True, generator=generator)
        pictures, captions = self._draw(subjects, generator)
        dropped = torch.rand(size, generator=generator) < self.settings.text_dropout
        captions = torch.where(dropped, self.empty, captions)
        batch = self._noisy(self._shifted(pictures, generator), captions, generator)
        batch.noise += self._tint(batch.timesteps, generator)
        return batch

    def held_out(self, total: int = VALIDATION) -> Batch:
        """Pictures of held-out subjects, the same each time."""
        generator = generator_for("pretraining-validation")
        held_out = torch.nonzero(self.data.held_out).flatten()
        pictures, captions = self._draw(held_out[torch.arange(total) % len(held_out)], generator)
        return self._noisy(to_model_range(self.data.pictures[pictures]), captions, generator)

    def _draw(self, subjects: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The numbers of a picture and of a caption (b,) of each subject (b,)."""
        first, end = self.data.picture_starts[subjects], self.data.picture_starts[subjects + 1]
        drawn = torch.rand(len(subjects), generator=generator, dtype=torch.float64)
        pictures = first + (drawn * (end - first)).long()
        first, end = self.data.caption_starts[subjects], self.data.caption_starts[subjects + 1]
        drawn = torch.rand(len(subjects), generator=generator, dtype=torch.float64)
        captions = torch.searchsorted(self.caption_ends, subjects + drawn, right=True)
        return pictures, torch.maximum(first, torch.minimum(captions, end - 1))

    def _shifted(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures in model range (b, 3, 32, 32); stills are moved by a pixel or so."""
        most = self.settings.max_shift
        offsets = torch.randint(-most, most + 1, (len(pictures), 2), generator=generator)
        offsets *= self.data.may_shift[pictures].unsqueeze(1)
        return shift(to_model_range(self.data.pictures[pictures]), offsets)

    def _noisy(self, x_0: Tensor, captions: Tensor, generator: torch.Generator) -> Batch:
        size = len(x_0)
        noise = torch.randn(x_0.shape, generator=generator)
        # Stratified over the batch, which lowers the loss' variance.
        levels = (
            torch.randperm(size, generator=generator) + torch.rand(size, generator=generator)
        ) / size
        last = self.objective.num_timesteps - 1
        timesteps = (levels * (last + 1)).long().clamp(max=last)
        embeds, mask = (
            self.data.prompt_embeds[captions].float(),
            self.data.prompt_mask[captions].long(),
        )
        return Batch(x_0, noise, timesteps, embeds, mask)

    def _tint(self, timesteps: Tensor, generator: torch.Generator) -> Tensor:
        """A smooth error of x_t, written as noise, so that the network learns to take it out.

        White noise hardly changes the mean of an area. A network that has seen no other noise trusts the areas' mean
        colours in x_t, so an error that sampling makes early stays to the end, as a tint of the background. In the
        spirit of input perturbation (Ning et al. 2023). Near t = 0 it fades with the noise.
        """
        coarse = torch.randn(len(timesteps), 3, 4, 4, generator=generator)
        even = torch.randn(len(timesteps), 3, 1, 1, generator=generator)
        smooth = F.interpolate(coarse, scale_factor=8, mode="bilinear", align_corners=False) + even
        alpha, sigma = self.objective.levels(timesteps, 4)
        return self.settings.tint * smooth * alpha / sigma.clamp(min=0.09)


def to_model_range(pictures: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def shift(x_0: Tensor, offsets: Tensor) -> Tensor:
    """Pictures (b, 3, h, w) moved right and down by whole pixels (b, 2); the background comes in."""
    most = int(offsets.abs().max())
    background = to_model_range(torch.tensor(BACKGROUND)).view(3, 1, 1)
    framed = F.pad(x_0 - background, (most,) * 4) + background  # (b, 3, h + 2 most, w + 2 most)
    columns = torch.arange(x_0.shape[3]) + most - offsets[:, :1]  # (b, w)
    rows = torch.arange(x_0.shape[2]) + most - offsets[:, 1:]  # (b, h)
    moved = framed[torch.arange(len(x_0))[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)  # from (b, h, w, 3)


# --- state ------------------------------------------------------------------------------------------------------------


class Training:
    """The network, its averages, its optimiser and how far it is."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings, self.device, self.step, self.began = settings, device, 0, 0
        self.network = load_network(ROOT / settings.init_from)
        self.network = self.network.to(device).train()
        self.objective = Objective(make_scheduler(), settings.min_snr_gamma)
        self.weights = {name: weight for name, weight in self.network.named_parameters()}
        self.averages = {
            length: {name: weight.detach().clone() for name, weight in self.weights.items()}
            for length in settings.ema_lengths
        }
        betas = (0.9, settings.beta_2)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            settings.learning_rate,
            betas,
            weight_decay=settings.weight_decay,
        )

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss of a batch."""
        x_t = self.objective.add_noise(batch.x_0, batch.noise, batch.timesteps)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"
        ):
            output = self.network(
                x_t, batch.timesteps, batch.prompt_embeds, batch.prompt_mask
            ).sample
        return self.objective.losses(output, batch.x_0, batch.noise, batch.timesteps).mean()

    def update(self, batch: Batch, decay: float = 1.0) -> float:
        """One step; `decay` scales the learning rate."""
        warmup = min(
            1.0, (self.step - self.began + 1) * self.settings.batch_size / self.settings.warmup
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * warmup * decay
        loss = self.loss(batch.to(self.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._average()
        self.step += 1
        return float(loss.detach())

    @torch.no_grad()
    def held_out_loss(self, batch: Batch) -> float:
        """Of the first average."""
        self._swap(self.settings.ema_lengths[0])
        loss = float(self.loss(batch.to(self.device)))
        self._swap(self.settings.ema_lengths[0])
        return loss

    @torch.no_grad()
    def _average(self) -> None:
        weights = list(self.weights.values())
        for length, average in self.averages.items():
            seen = (self.step + 1) * self.settings.batch_size
            # The average is short at the beginning.
            keep = math.exp(-self.settings.batch_size / min(length, 0.1 * seen + 1))
            torch._foreach_lerp_(list(average.values()), weights, 1 - keep)

    @torch.no_grad()
    def _swap(self, length: int) -> None:
        for name, weight in self.weights.items():
            held = weight.clone()
            weight.copy_(self.averages[length][name])
            self.averages[length][name].copy_(held)

    def save(self, folder: Path) -> None:
        """Write the state aside and rename it, so that a kill leaves the old one."""
        tensors = {f"raw.{name}": weight.detach() for name, weight in self.weights.items()}
        for length, average in self.averages.items():
            tensors |= {f"ema.{length}.{name}": weight for name, weight in average.items()}
        for name, weight in self.weights.items():
            moments = self.optimizer.state.get(weight, {})
            tensors |= {
                f"adam.{key}.{name}": moments[key]
                for key in ("exp_avg", "exp_avg_sq")
                if key in moments
            }
        aside = folder / f".{STATE}"
        metadata = {
            "step": str(self.step),
            "began": str(self.began),
            "settings": json.dumps(asdict(self.settings)),
        }
        save_file(
            {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, aside, metadata
        )
        aside.rename(folder / STATE)

    def load(self, path: Path) -> None:
        """Go on from a state."""
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        self.step, self.began = int(metadata["step"]), int(metadata.get("began", 0))
        stored = load_file(path, device=str(self.device))
        self._set({name: stored[f"raw.{name}"] for name in self.weights})
        for length in self.averages:
            if f"ema.{length}.conv_in.weight" in stored:
                self._set({name: stored[f"ema.{length}.{name}"] for name in self.weights}, length)
        if self.step == self.began:
            return  # saved before the first step, when the optimiser had no moments
        for name, weight in self.weights.items():
            moments = {key: stored[f"adam.{key}.{name}"] for key in ("exp_avg", "exp_avg_sq")}
            steps = torch.tensor(float(self.step - self.began))
            self.optimizer.state[weight] = {"step": steps, **moments}

    def load_export(self, folder: Path) -> None:
        """Go on from exported weights: without the optimiser's moments, so the learning rate warms up again."""
        self.step = self.began = json.loads((folder / RECORD).read_text(encoding="utf-8"))["step"]
        self._set(load_file(folder / "raw.safetensors", device=str(self.device)))
        for length in self.averages:
            self._set(load_file(folder / "ema.safetensors", device=str(self.device)), length)

    @torch.no_grad()
    def _set(self, tensors: dict[str, Tensor], length: int | None = None) -> None:
        """Fill the weights, and all averages with them; or one average."""
        targets = [self.averages[length]] if length else [self.weights, *self.averages.values()]
        for target in targets:
            for name, weight in target.items():
                weight.copy_(tensors[name])


def export(work: Path, folder: Path) -> None:
    """Write the weights of a state in fp16, raw and averaged, with the step, the settings and the loss curve."""
    folder.mkdir(parents=True, exist_ok=True)
    state = work / STATE
    with safe_open(state, "pt") as file:
        step, settings = int(file.metadata()["step"]), json.loads(file.metadata()["settings"])
    tensors = load_file(state)
    for kind, prefix in (("raw", "raw."), ("ema", f"ema.{settings['ema_lengths'][0]}.")):
        chosen = {
            name.removeprefix(prefix): t.half()
            for name, t in tensors.items()
            if name.startswith(prefix)
        }
        save_file(chosen, folder / f"{kind}.safetensors")
    record = {"step": step, "pictures_seen": step * settings["batch_size"], "settings": settings}
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if (work / LOG).is_file():
        (folder / LOG).write_bytes((work / LOG).read_bytes())


# --- the loop ---------------------------------------------------------------------------------------------------------


class Clock:
    """Ends the loop after some minutes, at a step, or on SIGTERM."""

    def __init__(self, minutes: float, last_step: float = math.inf) -> None:
        self.start, self.length, self.stopped = time.monotonic(), minutes * 60, False
        self.last_step = last_step
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)

    def _stop(self, *_: Any) -> None:
        self.stopped = True

    def left(self, step: int) -> float:
        """Seconds; 0 where a step is not to be done."""
        if self.stopped or step >= self.last_step:
            return 0.0
        return self.length - (time.monotonic() - self.start)


def steps(
    training: Training, batches: Batches, clock: Clock, decay_minutes: float
) -> Iterator[float]:
    """Losses, until the time is over."""
    while (left := clock.left(training.step)) > 0:
        decay = min(1.0, left / (60 * decay_minutes)) if decay_minutes else 1.0
        yield training.update(batches.at(training.step), decay)


def train(
    training: Training, batches: Batches, folder: Path, clock: Clock, decay_minutes: float
) -> None:
    """Train, log every 50 steps, and save every three minutes."""
    held_out, saved, began = batches.held_out(), time.monotonic(), time.monotonic()
    losses: list[float] = []
    for loss in steps(training, batches, clock, decay_minutes):
        losses.append(loss)
        if not math.isfinite(loss):
            raise SystemExit(f"step {training.step}: the loss is {loss}; the last state was kept")
        if training.step % 50 == 0:
            validation = training.held_out_loss(held_out) if training.step % 500 == 0 else ""
            seconds, began = time.monotonic() - began, time.monotonic()
            log(folder, training.step, sum(losses) / len(losses), validation, len(losses) / seconds)
            losses.clear()
        if time.monotonic() - saved > 180:
            training.save(folder)
            saved = time.monotonic()
    training.save(folder)


def log(folder: Path, step: int, loss: float, validation: float | str, rate: float) -> None:
    """A row of the loss curve."""
    path = folder / LOG
    is_new = not path.is_file()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(["step", "loss", "held_out_loss", "steps_per_second"])
        held_out = f"{validation:.5f}" if validation != "" else ""
        writer.writerow([step, f"{loss:.5f}", held_out, f"{rate:.3f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, required=True, help="folder of the state and the prepared data"
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--last-step", type=float, default=math.inf, help="stop there, even if there is time left"
    )
    parser.add_argument("--decay-minutes", type=float, default=0.0)
    parser.add_argument("--profile", type=Path, default=ROOT / "profiles/pretrained.yaml")
    parser.add_argument(
        "--batch-size", type=int, help="instead of the profile's, for a larger device"
    )
    parser.add_argument(
        "--from-export",
        type=Path,
        help="exported weights to begin with if the work folder has none",
    )
    parser.add_argument("--threads", type=int, default=0, help="of a CPU; 0: as torch decides")
    parser.add_argument(
        "--export", type=Path, help="write the weights in fp16 into this folder, and do not train"
    )
    arguments = parser.parse_args()

    if arguments.export:
        export(arguments.work, arguments.export)
        return
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings = read_settings(arguments.profile)
    if arguments.batch_size:
        settings = replace(settings, batch_size=arguments.batch_size)
    data = load_or_prepare(arguments.work, settings.frames_per_video)
    training = Training(settings, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if (arguments.work / STATE).is_file():
        training.load(arguments.work / STATE)
    elif arguments.from_export:
        training.load_export(arguments.from_export)
    batches = Batches(data, settings, training.objective)
    clock = Clock(arguments.minutes, arguments.last_step)  # once the data is prepared
    train(training, batches, arguments.work, clock, arguments.decay_minutes)
    print(json.dumps({"step": training.step}))


if __name__ == "__main__":
    main()

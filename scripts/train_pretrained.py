"""Train the demo's text-to-image model for some minutes; a later call continues where this one stopped.

    PYTHONPATH=. python scripts/train_pretrained.py --work /tmp/pretraining --minutes 10

The state (weights, averages, optimizer, step) is one safetensors file in the work folder. It is
written every three minutes, at the end, and on SIGTERM or Ctrl-C. `--export` writes the weights in
fp16 instead of training; `t2i/` in it is a whole text-to-image model.

The learning rate is constant after the warm-up, so that a training may stop at any time; averaging
the weights takes the place of a decay. `--decay-minutes` lowers the rate to zero over the last
minutes of a call, `--decay-steps` over the last steps before `--last-step`; so trainings of equal
length can be compared on a machine of varying load.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from pretraining_data import BACKGROUND, PretrainingData, load_or_prepare
from safetensors.torch import save_file
from torch import Tensor

from lumiere.diffusion.objective import Objective, make_scheduler
from lumiere.errors import DataError, ParamsError, run_program
from lumiere.files import read_json
from lumiere.models.diffusers_folders import load_network
from lumiere.params_file import choice, number, read
from lumiere.tensor_files import read_metadata, read_tensors
from lumiere.training.seeding import generator_for

ROOT = Path(__file__).resolve().parent.parent
STATE, LOG, RECORD = "state.safetensors", "loss.csv", "state.json"
# Of an export: the last weights, as a text-to-image model with its companions, and the averaged ones.
RAW, AVERAGED = f"t2i/unet/{SAFETENSORS_WEIGHTS_NAME}", "ema.safetensors"
COMPANIONS = ROOT / "pretrained/t2i"
MOMENTS = "exp_avg", "exp_avg_sq"  # of AdamW
VALIDATION = 128  # held-out pictures
CURE = "put a copy of a whole state in its place, or delete it to begin again"


@dataclass(frozen=True)
class Settings:
    """`profiles/pretrained.yaml`. Lengths are in pictures, so that they hold for any batch size."""

    init_from: str = "pretrained/t2i/unet"
    frames_per_video: int = number(24, at_least=1)
    batch_size: int = number(16, at_least=1)
    learning_rate: float = number(0.0005, above=0)
    beta_2: float = number(0.99, at_least=0, at_most=0.99999)
    weight_decay: float = number(0.01, at_least=0)
    warmup: int = number(3200, at_least=1)
    max_grad_norm: float = number(1.0, above=0)
    text_dropout: float = number(0.1, at_least=0, at_most=1)
    min_snr_gamma: float = number(0.0, at_least=0)
    max_shift: int = number(1, at_least=0)
    mirrored: float = number(0.5, at_least=0, at_most=1)
    tint: float = number(0.04, at_least=0)
    precision: str = choice("bf16", "fp32")  # of the forward pass; the weights are float32
    ema_lengths: tuple[int, ...] = (16000, 64000)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.ema_lengths or min(self.ema_lengths) < 1:
            lengths = list(self.ema_lengths)
            raise ParamsError(f"ema_lengths: {lengths}; allowed: at least one, each at least 1")


# --- batches ----------------------------------------------------------------------------------------------------------


@dataclass
class Batch:
    """What one step sees.

    Attributes:
        x_0: pictures (b, 3, 32, 32) in [-1, 1].
        noise: (b, 3, 32, 32), standard normal, plus the tint.
        timesteps: (b,).
        prompt_embeds: text states (b, 32, 384).
        prompt_mask: (b, 32), 1 for tokens that are attended to.
    """

    x_0: Tensor
    noise: Tensor
    timesteps: Tensor
    prompt_embeds: Tensor
    prompt_mask: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return a copy on a device."""
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


class Batches:
    """Makes batches. A batch depends on the seed and the number of its step only."""

    def __init__(self, data: PretrainingData, settings: Settings, objective: Objective) -> None:
        self.data, self.settings, self.objective = data, settings, objective
        self.empty = len(data.prompt_mask) - 1
        # Subject i has the captions from entry i to entry i + 1.
        self.caption_ends = data.caption_weights.double().cumsum(0)

    def at(self, step: int) -> Batch:
        """Return the training batch of a step."""
        generator = generator_for("pretraining", self.settings.seed, step)
        size = self.settings.batch_size
        subjects = torch.multinomial(self.data.weights, size, replacement=True, generator=generator)
        pictures, captions = self._draw(subjects, generator)
        dropped = torch.rand(size, generator=generator) < self.settings.text_dropout
        captions = torch.where(dropped, self.empty, captions)
        x_0 = self._mirrored(self._shifted(pictures, generator), pictures, captions, generator)
        batch = self._noisy(x_0, captions, generator)
        batch.noise += self._tint(batch.timesteps, generator)
        return batch

    def held_out(self, total: int = VALIDATION) -> Batch:
        """Return a batch of held-out subjects, the same each time."""
        generator = generator_for("pretraining-validation")
        held_out = torch.nonzero(self.data.held_out).flatten()
        pictures, captions = self._draw(held_out[torch.arange(total) % len(held_out)], generator)
        return self._noisy(to_model_range(self.data.pictures[pictures]), captions, generator)

    def _draw(self, subjects: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw a picture and a caption of each subject (b,), and return their numbers, each (b,)."""
        first, end = self.data.picture_starts[subjects], self.data.picture_starts[subjects + 1]
        drawn = torch.rand(len(subjects), generator=generator, dtype=torch.float64)
        pictures = first + (drawn * (end - first)).long()
        first, end = self.data.caption_starts[subjects], self.data.caption_starts[subjects + 1]
        drawn = torch.rand(len(subjects), generator=generator, dtype=torch.float64)
        captions = torch.searchsorted(self.caption_ends, subjects + drawn, right=True)
        return pictures, torch.maximum(first, torch.minimum(captions, end - 1))

    def _shifted(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Return pictures in model range, (b, 3, 32, 32). Stills are moved by up to `max_shift`."""
        most = self.settings.max_shift
        offsets = torch.randint(-most, most + 1, (len(pictures), 2), generator=generator)
        offsets *= self.data.may_shift[pictures].unsqueeze(1)
        return shift(to_model_range(self.data.pictures[pictures]), offsets)

    def _mirrored(
        self, x_0: Tensor, pictures: Tensor, captions: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Mirror some of the stills (b, 3, 32, 32) whose caption holds for the mirrored picture."""
        chosen = torch.rand(len(x_0), generator=generator) < self.settings.mirrored
        chosen &= (self.data.may_shift[pictures] & self.data.may_mirror[captions]).bool()
        return torch.where(chosen.view(-1, 1, 1, 1), x_0.flip(3), x_0)

    def _noisy(self, x_0: Tensor, captions: Tensor, generator: torch.Generator) -> Batch:
        size = len(x_0)
        noise = torch.randn(x_0.shape, generator=generator)
        # Stratified over the batch, which lowers the loss' variance.
        strata = torch.randperm(size, generator=generator)
        levels = (strata + torch.rand(size, generator=generator)) / size
        last = self.objective.num_timesteps - 1
        timesteps = (levels * (last + 1)).long().clamp(max=last)
        embeds = self.data.prompt_embeds[captions].float()
        mask = self.data.prompt_mask[captions].long()
        return Batch(x_0, noise, timesteps, embeds, mask)

    def _tint(self, timesteps: Tensor, generator: torch.Generator) -> Tensor:
        """Return a smooth error of x_t, expressed as noise, which the network learns to remove.

        White noise hardly changes the mean of an area, so a network that has seen no other noise
        trusts the mean colours in x_t. An error that sampling makes early then stays to the end, as
        a tint of the background. This resembles input perturbation (Ning et al. 2023). Near t = 0
        the error fades with the noise.
        """
        coarse = torch.randn(len(timesteps), 3, 4, 4, generator=generator)
        even = torch.randn(len(timesteps), 3, 1, 1, generator=generator)
        smooth = F.interpolate(coarse, scale_factor=8, mode="bilinear", align_corners=False) + even
        alpha, sigma = self.objective.levels(timesteps, 4)
        return self.settings.tint * smooth * alpha / sigma.clamp(min=0.09)


def to_model_range(pictures: Tensor) -> Tensor:
    """Convert uint8 to float32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def shift(x_0: Tensor, offsets: Tensor) -> Tensor:
    """Move pictures (b, 3, h, w) right and down by whole pixels (b, 2), over the background."""
    most = int(offsets.abs().max())
    background = to_model_range(torch.tensor(BACKGROUND)).view(3, 1, 1)
    framed = F.pad(x_0 - background, (most,) * 4) + background  # (b, 3, h + 2 most, w + 2 most)
    columns = torch.arange(x_0.shape[3]) + most - offsets[:, :1]  # (b, w)
    rows = torch.arange(x_0.shape[2]) + most - offsets[:, 1:]  # (b, h)
    moved = framed[torch.arange(len(x_0))[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)  # from (b, h, w, 3)


# --- state ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """What a state file says beside its tensors.

    Attributes:
        step, began, pictures_seen: as in `Training`.
        first_average: the first of its `ema_lengths`.
        settings: all settings of its training.
    """

    step: int
    began: int
    pictures_seen: int
    first_average: int
    settings: dict[str, Any]


def read_progress(path: Path) -> Progress:
    """Read the progress of a state file.

    Raises:
        DataError: if the file is missing or damaged, or something else wrote it.
    """
    metadata = read_metadata(path)
    try:
        step, settings = int(metadata["step"]), json.loads(metadata["settings"])
        first_average = int(settings["ema_lengths"][0])
        pictures_seen = int(metadata.get("pictures_seen", step * settings["batch_size"]))
        began = int(metadata.get("began", 0))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        problem = f"{path}: no state of this script: {type(error).__name__}: {error}"
        raise DataError(problem, CURE) from None
    return Progress(step, began, pictures_seen, first_average, settings)


class Training:
    """The network, its averages, its optimizer and its progress.

    Attributes:
        step: how many steps the weights have seen.
        began: the step at which the optimizer began; later than 0 after `load_export`.
        pictures_seen: how many pictures these steps have seen; batch sizes may differ between calls.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.step, self.began, self.pictures_seen = 0, 0, 0
        self.network = load_network(ROOT / settings.init_from).to(device).train()
        if device.type == "cpu":
            # torch's fused attention is slow in bfloat16 on a CPU: without it, a step takes a
            # quarter less time.
            self.network.set_attn_processor(AttnProcessor())
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
        """Return the mean loss of a batch."""
        x_t = self.objective.add_noise(batch.x_0, batch.noise, batch.timesteps)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"
        ):
            output = self.network(
                x_t, batch.timesteps, batch.prompt_embeds, batch.prompt_mask
            ).sample
        return self.objective.losses(output, batch.x_0, batch.noise, batch.timesteps).mean()

    def update(self, batch: Batch, decay: float = 1.0) -> float:
        """Train on one batch and return its loss; `decay` scales the learning rate."""
        pictures = (self.step - self.began + 1) * self.settings.batch_size
        warmup = min(1.0, pictures / self.settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * warmup * decay
        loss = self.loss(batch.to(self.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.pictures_seen += self.settings.batch_size
        self._average()
        return float(loss.detach())

    @torch.no_grad()
    def held_out_loss(self, batch: Batch) -> float:
        """Return the loss of the first average."""
        self._swap(self.settings.ema_lengths[0])
        loss = float(self.loss(batch.to(self.device)))
        self._swap(self.settings.ema_lengths[0])
        return loss

    @torch.no_grad()
    def _average(self) -> None:
        weights = list(self.weights.values())
        for length, average in self.averages.items():
            # The average is short at the beginning.
            pictures = min(length, 0.1 * self.pictures_seen + 1)
            keep = math.exp(-self.settings.batch_size / pictures)
            torch._foreach_lerp_(list(average.values()), weights, 1 - keep)

    @torch.no_grad()
    def _swap(self, length: int) -> None:
        for name, weight in self.weights.items():
            held = weight.clone()
            weight.copy_(self.averages[length][name])
            self.averages[length][name].copy_(held)

    def save(self, folder: Path) -> None:
        """Write the state under another name and rename it, so that a kill leaves the old one."""
        tensors = {f"raw.{name}": weight.detach() for name, weight in self.weights.items()}
        for length, average in self.averages.items():
            tensors |= {f"ema.{length}.{name}": weight for name, weight in average.items()}
        for name, weight in self.weights.items():
            moments = self.optimizer.state.get(weight, {})
            for key in MOMENTS:
                if key in moments:
                    tensors[f"adam.{key}.{name}"] = moments[key]
        aside = folder / f".{STATE}"
        metadata = {
            "step": str(self.step),
            "began": str(self.began),
            "pictures_seen": str(self.pictures_seen),
            "settings": json.dumps(asdict(self.settings)),
        }
        save_file(
            {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, aside, metadata
        )
        aside.rename(folder / STATE)

    def load(self, path: Path) -> None:
        """Continue from a state.

        Raises:
            DataError: if the file is missing, damaged, of another network, or of another program.
        """
        progress, stored = read_progress(path), read_tensors(path)
        self.step, self.began = progress.step, progress.began
        self.pictures_seen = progress.pictures_seen
        self._set(stored, "raw.", path)
        for length in self.averages:
            if f"ema.{length}.conv_in.weight" in stored:
                self._set(stored, f"ema.{length}.", path, length)
        if self.step == self.began:
            return  # saved before the first step, when the optimizer had no moments
        for name, weight in self.weights.items():
            moments: dict[str, Tensor] = {}
            for key in MOMENTS:
                moment = stored.get(f"adam.{key}.{name}")
                if moment is None or moment.shape != weight.shape:
                    problem = f"{path}: adam.{key}.{name} is missing or has another shape"
                    raise DataError(problem, CURE)
                moments[key] = moment.to(self.device)
            steps = torch.tensor(float(self.step - self.began))
            self.optimizer.state[weight] = {"step": steps, **moments}

    def load_export(self, folder: Path) -> None:
        """Continue from exported weights.

        They come without the optimizer's moments, so the learning rate warms up again.

        Raises:
            DataError: if a file is missing, damaged, or of another network.
        """
        raw, averaged = folder / RAW, folder / AVERAGED
        self._set(read_tensors(raw), "", raw)
        for length in self.averages:
            self._set(read_tensors(averaged), "", averaged, length)
        record = read_json(folder / RECORD)
        numbers = [record.get(key) for key in ("step", "pictures_seen")]
        if not all(isinstance(number, int) for number in numbers):
            raise DataError(
                f"{folder / RECORD}: no step or pictures_seen; export the weights again"
            )
        self.step = self.began = record["step"]
        self.pictures_seen = record["pictures_seen"]

    @torch.no_grad()
    def _set(
        self, tensors: dict[str, Tensor], prefix: str, path: Path, length: int | None = None
    ) -> None:
        """Fill one average; without `length`, fill the weights and all averages.

        Args:
            tensors: by name.
            prefix: what precedes the name of a weight in `tensors`.
            path: the file that they come from, for the message.
            length: the average to fill.
        """
        for name, weight in self.weights.items():
            if prefix + name not in tensors or tensors[prefix + name].shape != weight.shape:
                raise DataError(
                    f"{path}: {prefix}{name} is missing or has another shape; use the weights of "
                    f"{self.settings.init_from}, or an empty folder"
                )
        targets = [self.averages[length]] if length else [self.weights, *self.averages.values()]
        for target in targets:
            for name, weight in target.items():
                weight.copy_(tensors[prefix + name])


def export(work: Path, folder: Path) -> None:
    """Write the weights of a state in fp16, with its progress and loss curve.

    The last weights become a whole text-to-image model in `t2i/`, the averaged ones a file.

    Raises:
        DataError: if the work folder has no whole state.
    """
    progress, tensors = read_progress(work / STATE), read_tensors(work / STATE)
    averaged = f"ema.{progress.first_average}."
    exported: dict[str, dict[str, Tensor]] = {"raw": {}, "ema": {}}
    for kind, prefix in (("raw", "raw."), ("ema", averaged)):
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                exported[kind][name.removeprefix(prefix)] = tensor.half()
    if not exported["raw"] or exported["ema"].keys() != exported["raw"].keys():
        raise DataError(f"{work / STATE}: no whole weights in raw.* and {averaged}*", CURE)
    folder.mkdir(parents=True, exist_ok=True)
    network = load_network(ROOT / progress.settings["init_from"])
    network.load_state_dict(exported["raw"])
    network.register_to_config(_name_or_path="")  # a path of this machine
    network.half().save_pretrained(folder / Path(RAW).parent)
    for name in ("scheduler", "text_encoder"):
        shutil.copytree(COMPANIONS / name, folder / "t2i" / name, dirs_exist_ok=True)
    save_file(exported["ema"], folder / AVERAGED)
    record = {
        "step": progress.step,
        "pictures_seen": progress.pictures_seen,
        "settings": progress.settings,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if (work / LOG).is_file():
        (folder / LOG).write_bytes((work / LOG).read_bytes())


# --- the loop ---------------------------------------------------------------------------------------------------------


class Clock:
    """Ends the loop after some minutes, at a given step, or on SIGTERM or Ctrl-C."""

    def __init__(self, minutes: float, last_step: float = math.inf) -> None:
        self.start, self.length, self.stopped = time.monotonic(), minutes * 60, False
        self.last_step = last_step
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)

    def _stop(self, *_: Any) -> None:
        self.stopped = True

    def left(self, step: int) -> float:
        """Return the seconds that are left; 0 if no further step is due."""
        if self.stopped or step >= self.last_step:
            return 0.0
        return self.length - (time.monotonic() - self.start)


@dataclass(frozen=True)
class Decay:
    """Lowers the learning rate to zero over the last minutes, or the last steps, of a call."""

    minutes: float = 0.0
    steps: int = 0

    def __call__(self, seconds_left: float, steps_left: float) -> float:
        """Return the factor of the learning rate, 0 to 1."""
        factor = 1.0
        if self.minutes:
            factor = min(factor, seconds_left / (60 * self.minutes))
        if self.steps:
            factor = min(factor, steps_left / self.steps)
        return factor


def steps(training: Training, batches: Batches, clock: Clock, decay: Decay) -> Iterator[float]:
    """Train step by step until the time is over, and yield the losses."""
    while (left := clock.left(training.step)) > 0:
        factor = decay(left, clock.last_step - training.step)
        yield training.update(batches.at(training.step), factor)


def train(training: Training, batches: Batches, folder: Path, clock: Clock, decay: Decay) -> None:
    """Train, log every 50 steps, and save every three minutes and at the end."""
    held_out, saved, began = batches.held_out(), time.monotonic(), time.monotonic()
    losses: list[float] = []
    for loss in steps(training, batches, clock, decay):
        losses.append(loss)
        if not math.isfinite(loss):
            raise SystemExit(
                f"error: the loss of step {training.step} is {loss}; the last saved state is unchanged"
            )
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
    """Append a row to the loss curve."""
    path = folder / LOG
    is_new = not path.is_file()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(["step", "loss", "held_out_loss", "steps_per_second"])
        held_out = f"{validation:.5f}" if validation != "" else ""
        writer.writerow([step, f"{loss:.5f}", held_out, f"{rate:.3f}"])


def main() -> None:
    """Run the command line."""
    run_program(lambda: run(_parser()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, required=True, help="the folder of the state and the prepared data"
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="how long to train (default: 10)"
    )
    parser.add_argument(
        "--last-step", type=float, default=math.inf, help="stop at this step, even if time is left"
    )
    parser.add_argument(
        "--decay-minutes",
        type=float,
        default=0.0,
        help="lower the learning rate to zero over the last minutes",
    )
    parser.add_argument(
        "--decay-steps",
        type=int,
        default=0,
        help="lower the learning rate to zero over the last steps before --last-step",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        default=ROOT / "profiles/pretrained.yaml",
        help="the settings (default: profiles/pretrained.yaml)",
    )
    parser.add_argument(
        "--batch-size", type=int, help="pictures in a step, instead of the profile's number"
    )
    parser.add_argument(
        "--from-export",
        type=Path,
        help="the exported weights to begin with, if the work folder has no state",
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads (default: as torch decides)"
    )
    parser.add_argument(
        "--export", type=Path, help="write the weights in fp16 into this folder, and do not train"
    )
    return parser


def run(parser: argparse.ArgumentParser) -> None:
    """Export, or train until the time is over.

    Raises:
        LumiereError: if a setting or a file cannot be used.
    """
    arguments = parser.parse_args()
    if arguments.batch_size is not None and arguments.batch_size < 1:
        parser.error(f"argument --batch-size: {arguments.batch_size}; allowed: at least 1")
    for name in ("decay_minutes", "decay_steps"):
        if getattr(arguments, name) < 0:
            parser.error(f"argument --{name.replace('_', '-')}: allowed: at least 0")
    if arguments.decay_steps and arguments.last_step == math.inf:
        parser.error(
            "argument --decay-steps: needs --last-step, the step at which the rate is zero"
        )
    if arguments.export:
        export(arguments.work, arguments.export)
        return
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings = read(Settings, arguments.profile)
    if arguments.batch_size is not None:
        settings = replace(settings, batch_size=arguments.batch_size)
    data = load_or_prepare(arguments.work, settings.frames_per_video)
    training = Training(settings, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if (arguments.work / STATE).is_file():
        training.load(arguments.work / STATE)
    elif arguments.from_export:
        training.load_export(arguments.from_export)
    batches = Batches(data, settings, training.objective)
    clock = Clock(arguments.minutes, arguments.last_step)  # once the data is prepared
    decay = Decay(arguments.decay_minutes, arguments.decay_steps)
    train(training, batches, arguments.work, clock, decay)
    print(json.dumps({"step": training.step}))


if __name__ == "__main__":
    main()

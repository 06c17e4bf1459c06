"""The losses of 20 steps of each training, as they were: what changes them is told apart from what must not.

`python -m tests.training.test_golden` writes them anew, after a change that is meant to change them.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lumiere.config import MASK_KINDS
from lumiere.data.clips import ClipStore
from lumiere.training.loop import train
from lumiere.training.masks import draw_kind
from tests.training.small_task import TWO_LEVELS, make_task
from tests.training.test_lora import make_adapted
from tests.training.test_tasks import OPTIM, TASKS, base_task, write_clips

TRAININGS: dict[str, Callable[[tuple[ClipStore, ClipStore]], Any]] = TASKS | {
    "conditioned, every kind": lambda stores: base_task(stores, dict.fromkeys(MASK_KINDS, 1.0)),
    "style": lambda stores: make_task(channels=TWO_LEVELS),
    "style LoRA": lambda stores: make_adapted(),
}
GOLDEN = Path(__file__).with_name("golden_losses.json")
CONFIG = dataclasses.replace(
    OPTIM,
    steps=20,
    warmup_steps=4,
    learning_rate=3e-3,
    log_every=1,
    validate_every=20,
    text_dropout=0.1,
)


def losses(name: str, stores: tuple[ClipStore, ClipStore], scratch: Path) -> dict[str, list[float]]:
    """Of the steps, and on held-out clips at the end."""
    torch.manual_seed(0)
    task = TRAININGS[name](stores)
    task.config = CONFIG
    result = train(task, scratch)
    return {
        "loss": [loss for _, loss in result.losses],
        "validation": [loss for _, loss in result.validation],
    }


@pytest.mark.parametrize("name", TRAININGS)
def test_losses_are_those_recorded(
    name: str, stores: tuple[ClipStore, ClipStore], tmp_path: Path
) -> None:
    expected, found = json.loads(GOLDEN.read_text())[name], losses(name, stores, tmp_path)
    assert len(found["loss"]) == 20
    for curve in ("loss", "validation"):
        # Another CPU's sums add up to 1e-3.
        assert found[curve] == pytest.approx(expected[curve], rel=5e-3), curve


def test_every_mask_kind_is_drawn(
    stores: tuple[ClipStore, ClipStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: set[str] = set()

    def draw(weights: dict[str, float], generator: torch.Generator) -> str:
        kind = draw_kind(weights, generator)
        drawn.add(kind)
        return kind

    monkeypatch.setattr("lumiere.training.conditioned_task.draw_kind", draw)
    task = TRAININGS["conditioned, every kind"](stores)
    task.config = CONFIG
    for position in range(CONFIG.steps * CONFIG.batch_size):
        task.example(position)
    assert drawn == set(MASK_KINDS)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        stores = write_clips(Path(folder))
        recorded = {
            name: losses(name, stores, Path(folder) / "scratch" / name) for name in TRAININGS
        }
    rounded = {
        name: {k: [round(v, 6) for v in curve] for k, curve in found.items()}
        for name, found in recorded.items()
    }
    GOLDEN.write_text(json.dumps(rounded, indent=1) + "\n")
    print(f"wrote {GOLDEN}", file=sys.stderr)

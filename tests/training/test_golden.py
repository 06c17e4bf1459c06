"""The losses of 20 steps of each training, as they were: what changes them is told apart from what must not.

`python -m tests.training.test_golden` writes them anew, after a change that is meant to change them.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from lumiere.data.clips import ClipStore
from lumiere.training.loop import train
from tests.training.test_tasks import OPTIM, TASKS, write_clips

GOLDEN = Path(__file__).with_name("golden_losses.json")
CONFIG = dataclasses.replace(
    OPTIM, steps=20, warmup_steps=4, learning_rate=3e-3, log_every=1, validate_every=20, text_dropout=0.1
)


def losses(name: str, stores: tuple[ClipStore, ClipStore], scratch: Path) -> dict[str, list[float]]:
    """Of the steps, and on held-out clips at the end."""
    torch.manual_seed(0)
    task = TASKS[name](stores)
    task.config = CONFIG
    result = train(task, CONFIG, scratch)
    return {"loss": [loss for _, loss in result.losses], "validation": [loss for _, loss in result.validation]}


@pytest.mark.parametrize("name", TASKS)
def test_losses_are_those_recorded(name: str, stores: tuple[ClipStore, ClipStore], tmp_path: Path) -> None:
    expected, found = json.loads(GOLDEN.read_text())[name], losses(name, stores, tmp_path)
    assert len(found["loss"]) == 20
    for curve in ("loss", "validation"):
        assert found[curve] == pytest.approx(expected[curve], rel=5e-3), curve  # another CPU's sums add up to 1e-3


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        stores = write_clips(Path(folder))
        recorded = {name: losses(name, stores, Path(folder) / "scratch" / name) for name in TASKS}
    rounded = {
        name: {k: [round(v, 6) for v in curve] for k, curve in found.items()} for name, found in recorded.items()
    }
    GOLDEN.write_text(json.dumps(rounded, indent=1) + "\n")
    print(f"wrote {GOLDEN}", file=sys.stderr)

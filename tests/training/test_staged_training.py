"""Which edits of the code begin a training anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumiere import staleness
from lumiere.config import Params
from lumiere.training.staged_training import RECORD, StagedTraining
from tests.stale_stages import write_files


def state_folder(root: Path) -> Path:
    staleness.imported_names.cache_clear()
    staleness.has_code.cache_clear()
    staleness.offered_names.cache_clear()
    params, stage = Params(), root / "stages" / "train_base.py"
    return StagedTraining(root / "scratch", params, params.train_base, [stage, ""]).folder


def test_a_training_begins_anew_when_code_that_decides_its_weights_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staleness, "ROOT", tmp_path)
    contents = {
        "stages/train_base.py": "from lumiere import step\nfrom lumiere.config import x\n"
        "from lumiere.training.loss_curves import x\n",
        "lumiere/training/loss_curves.py": "x = 1\n",
        "lumiere/step.py": "x = 1\n",
        "lumiere/config.py": "x = 1\n",
        "lumiere/guidance.py": "x = 1\n",
    }
    write_files(tmp_path, contents)

    first = state_folder(tmp_path)
    for name in ("lumiere/config.py", "lumiere/guidance.py", RECORD):
        (tmp_path / name).write_text("x = 2\n", encoding="utf-8")
    assert state_folder(tmp_path) == first
    for name in ("lumiere/step.py", "stages/train_base.py"):
        before = state_folder(tmp_path)
        with open(tmp_path / name, "a", encoding="utf-8") as file:
            file.write("y = 2\n")
        assert state_folder(tmp_path) != before

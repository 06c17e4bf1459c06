"""`kill -9` at random moments of a stage: whatever was lost, the same command ends in the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import forked
from tests.killed import VARIABLES, contents, kill_after
from tests.stages.conftest import OPTIM, PARAMS, commands, run_stage

TRAINING = {
    "optim": OPTIM | {"steps": 12, "checkpoint_every": 3, "log_every": 4, "validate_every": 6}
}
STATE = "scratch/*/train_base"
# What is waited for, and how long at most it goes on from there, in seconds.
MOMENTS = [
    ("scratch/.*.lock", 0.5),  # the first steps, before anything is saved
    (f"{STATE}/step-*", 0.4),  # steps
    (f"{STATE}/.writing-*", 0.02),  # half a checkpoint
    ("out/train_base.json", 0.2),  # the weights
]
IMPORT_SECONDS = 2.0  # less than the imports of a stage take


def test_a_stage_killed_again_and_again_ends_in_the_same_bytes(
    project: Path, tmp_path: Path
) -> None:
    t2i, whole, out = (tmp_path / name for name in ("t2i", "whole", "out"))
    run_stage(project, "prepare_t2i", out=t2i)
    run_stage(
        project,
        "train_base",
        {"train_base": TRAINING},
        t2i=t2i,
        out=whole,
        scratch=tmp_path / "scratch",
    )

    params, log, draw = tmp_path / "params.yaml", tmp_path / "said.txt", random.Random(0)
    settings = PARAMS | {"train_base": TRAINING, "runtime": {"workers": 1}}  # which is killed, too
    params.write_text(yaml.safe_dump(settings), encoding="utf-8")
    paths = {"params": params, "t2i": t2i, "out": out, "scratch": tmp_path / "scratch"}
    command = ["stages.train_base", *commands()["train_base"]]
    command += [part for name, path in paths.items() for part in (f"--{name}", str(path))]
    program = [sys.executable, "-m", *command]
    environment = os.environ | VARIABLES
    with pytest.raises(subprocess.TimeoutExpired):  # which kills it
        seconds = IMPORT_SECONDS * draw.random()
        subprocess.run(program, cwd=project, env=environment, timeout=seconds, check=False)
    codes = []
    for pattern, longest in MOMENTS:
        pattern = str(tmp_path / pattern)
        code = kill_after(command, project, log, pattern, longest * draw.random())
        assert code in (-signal.SIGKILL, 0), log.read_text()  # 0: it was done before
        codes.append(code)
    assert codes[0] == -signal.SIGKILL  # before anything is saved
    forked.start(command, log, project, VARIABLES).wait()
    assert contents(out) == contents(whole)
    assert not list((tmp_path / "scratch").iterdir())

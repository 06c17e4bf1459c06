"""`kill -9` of curation and decoding at random moments: the same command ends in the same bytes."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import numpy as np
import pytest

from tests import forked
from tests.killed import VARIABLES, contents, kill_after
from tests.video_factory import encode

NUM_VIDEOS = 6
# What is waited for, and how long at most the stage goes on from there, in seconds.
MOMENTS = [("*", 0.1), ("*.npz", 0.05)]
IMPORTS = (
    "lumiere.curation.curate", "lumiere.data.prepare", "lumiere.evaluation.backbones.efficientnet_lite",
)  # fmt: skip
PARAMS = """
curate: {workers: 1, min_side: 48, validation_fraction: 0.2}
decode: {size: 32, clips_per_shard: 4, workers: 1}
prepare_t2i: {size: 16}
train_ssr: {size: 32, low_size: 16, crop: 16}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make videos of a square that crosses a picture, with captions."""
    root = tmp_path_factory.mktemp("project")
    lines = ["video,caption"]
    for number in range(NUM_VIDEOS):
        draw = np.random.default_rng(number)
        still = draw.integers(0, 255, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        frames = np.repeat(still[None], 28, axis=0)
        for i, frame in enumerate(frames):
            frame[20:40, 1 + i : 21 + i] = draw.integers(0, 255, 3)
        encode(root / "raw" / f"{number}.mp4", frames, 16)
        lines.append(f"{number}.mp4,picture {number}")
    (root / "captions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (root / "params.yaml").write_text(PARAMS, encoding="utf-8")
    return root


def curation(out: str) -> list[str]:
    return [
        *("stages.curate", "--params", "params.yaml", "--raw", "raw", "--captions", "captions.csv"),
        *("--out", f"{out}/manifest.parquet", "--report", f"{out}/report"),
        *("--metrics", f"{out}/curate.json", "--scratch", f"{out}-scratch"),
    ]


def decoding(out: str) -> list[str]:
    return [
        *("stages.decode", "--params", "params.yaml", "--manifest", "whole/manifest.parquet"),
        *("--raw", "raw", "--out", f"{out}/clips", "--scratch", f"{out}-scratch"),
    ]


def test_curation_and_decoding_killed_again_and_again_end_in_the_same_bytes(project: Path) -> None:
    draw, log = random.Random(0), project / "said.txt"
    for stage in (curation, decoding):
        forked.start(stage("whole"), log, project, VARIABLES, IMPORTS).wait()
        codes = []
        for pattern, longest in MOMENTS:
            place = str(project / "killed-scratch" / pattern)
            codes.append(
                kill_after(stage("killed"), project, log, place, longest * draw.random(), IMPORTS)
            )
        assert signal.SIGKILL * -1 in codes and set(codes) <= {-signal.SIGKILL, 0}, log.read_text()
        forked.start(stage("killed"), log, project, VARIABLES, IMPORTS).wait()
        assert contents(project / "killed") == contents(project / "whole")

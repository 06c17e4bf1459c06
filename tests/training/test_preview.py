"""Sample videos of a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lumiere.config import LaunchConfig, RuntimeConfig
from lumiere.data.clips import ClipStore
from lumiere.data.video_io import read_video
from lumiere.diffusion.objective import make_scheduler
from lumiere.training.loop import train
from lumiere.training.parallel import Parallel
from lumiere.training.preview import VideoPreview
from tests.training.test_golden import CONFIG
from tests.training.test_tasks import FRAMES, TASKS


@pytest.mark.parametrize("name", ["base", "conditioned"])
def test_a_preview_shows_the_network_and_leaves_it_alone(
    name: str, stores: tuple[ClipStore, ClipStore], tmp_path: Path
) -> None:
    task, shown = TASKS[name](stores), []
    before = {key: value.clone() for key, value in task.network.state_dict().items()}
    state = torch.get_rng_state()
    preview = VideoPreview(task, make_scheduler(), RuntimeConfig(sample_every=1), 16, tmp_path, shown.append)
    parallel = Parallel(LaunchConfig())
    with torch.no_grad():
        for step in (1, 2):
            preview(task.network, parallel, step)
    assert [path.name for path in shown] == ["step-0000001.mp4", "step-0000002.mp4"]
    one, two = (read_video(path, 16) for path in shown)
    assert one.shape == (FRAMES, 96, 3 * 96, 3) and np.array_equal(one, two)
    assert one.std() > 5  # a picture
    assert torch.equal(torch.get_rng_state(), state) and task.network.training
    assert all(torch.equal(value, before[key]) for key, value in task.network.state_dict().items())


def test_previews_change_nothing_of_what_is_learned(stores: tuple[ClipStore, ClipStore], tmp_path: Path) -> None:
    outcomes, shown = [], []
    for every in (0, 2):
        torch.manual_seed(0)
        task = TASKS["base"](stores)
        config = type(CONFIG)(**{**CONFIG.__dict__, "steps": 5})
        runtime = RuntimeConfig(sample_every=every)
        preview = VideoPreview(task, make_scheduler(), runtime, 16, tmp_path / "samples", shown.append)
        result = train(task, config, tmp_path / str(every), preview=preview)
        outcomes.append((result.losses, {key: value.clone() for key, value in task.network.state_dict().items()}))
    assert [path.name for path in shown] == [f"step-{step:07d}.mp4" for step in (2, 4, 5)]
    assert outcomes[0][0] == outcomes[1][0]
    assert all(torch.equal(value, outcomes[1][1][key]) for key, value in outcomes[0][1].items())

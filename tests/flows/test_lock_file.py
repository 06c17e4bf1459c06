"""What `dvc.lock` says about data, outputs, and how scores were measured."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from flows.lock_file import data_inputs, measurement_digest, output_digests, read_stages

LOCK = """
schema: '2.0'
stages:
  a:
    deps: [{path: data/raw, md5: 12.dir}, {path: lumiere/files.py, md5: '3'}, {path: lumiere/text, md5: 4.dir}]
    outs: [{path: outputs/a, md5: '5'}]
  b:
    deps: [{path: outputs/a, md5: '5'}, {path: data/captions.csv, md5: '6'}]
    outs: [{path: outputs/b, md5: '7'}]
"""


def test_data_that_no_stage_writes_is_an_input(tmp_path: Path) -> None:
    assert read_stages(tmp_path / "dvc.lock") == {}
    (tmp_path / "dvc.lock").write_text(LOCK)
    stages = read_stages(tmp_path / "dvc.lock")
    assert data_inputs(stages) == {"data/raw": "12.dir", "data/captions.csv": "6"}
    assert output_digests(stages) == {"outputs/a": "5", "outputs/b": "7"}


def entry(deps: dict[str, str], out: str, digest: str, **params: Any) -> dict[str, Any]:
    return {
        "deps": [{"path": path, "md5": md5} for path, md5 in deps.items()],
        "params": {"params.yaml": params},
        "outs": [{"path": out, "md5": digest}],
    }


STAGES = {
    "generate": entry({"weights": "1", "clips": "4"}, "pipeline", "2", seed=0),
    "upscale": entry({"beside": "3"}, "videos", "3"),
    "evaluate": entry(
        {"videos": "3", "clips": "4", "lumiere/a.py": "5"}, "evaluation", "6", num_videos=24
    ),
}
STAGES["generate"]["outs"].append({"path": "beside", "md5": "3"})


def changed(stage: str, deps: dict[str, str], **params: Any) -> dict[str, Any]:
    stages = copy.deepcopy(STAGES)
    for dependency in stages[stage]["deps"]:
        dependency["md5"] = deps.get(dependency["path"], dependency["md5"])
    stages[stage]["params"]["params.yaml"] |= params
    return stages


@pytest.mark.parametrize(
    ("stages", "is_same"),
    [
        (changed("evaluate", {"videos": "8"}), True),  # another pipeline's videos
        (changed("generate", {"weights": "8"}, seed=1), True),
        (changed("evaluate", {"lumiere/a.py": "8"}), True),
        (changed("evaluate", {"clips": "8"}), False),
        (changed("evaluate", {}, num_videos=12), False),
    ],
)
def test_settings_and_reference_clips_decide_how_scores_were_measured(
    stages: dict[str, Any], is_same: bool
) -> None:
    before = measurement_digest(STAGES, "evaluation", "pipeline")
    assert (measurement_digest(stages, "evaluation", "pipeline") == before) is is_same

"""Clips that are not square, and clips of several sizes, from the decoded clips to the videos."""

from __future__ import annotations

import json
from pathlib import Path

from lumiere.data.clips import ClipStore
from lumiere.models import SpaceTimeUNet
from lumiere.pipelines.evaluation_sets import TEXT_TO_VIDEO
from lumiere.sample_files import read_set
from lumiere.training.examples import StoredClips
from tests.stages.conftest import FRAMES, few_validations, make_project, run_stage

STAGES = ("prepare_t2i", "train_base", "train_conditioned", "train_ssr", "train_style")
STAGES += ("blend_style", "generate")
SEVERAL = [[32, 48], [48, 32], [32, 32]]


SMALL = {"set_size": 2, "held_out_set_size": 1, "image_set_size": 1, "style_prompts": 1}
SMALL |= {"seam_videos": 1, "num_inference_steps": 1, "ssr_steps": 1}


def test_all_stages_take_several_sizes(tmp_path: Path) -> None:
    make_project(tmp_path, SEVERAL)
    values = {"decode": {"size": SEVERAL}, "generate": SMALL, "evaluate": {"num_videos": 2}}
    with few_validations():
        for name in STAGES:
            run_stage(tmp_path, name, values)
    outputs = tmp_path / "outputs"
    unet = SpaceTimeUNet.from_pretrained(outputs / "conditioned").unet
    ssr = SpaceTimeUNet.from_pretrained(outputs / "ssr").unet
    assert (list(unet.config.sample_size), list(ssr.config.sample_size)) == ([16, 24], [32, 48])
    made = json.loads((outputs / "videos" / "text.json").read_text())
    assert (made["base_size"], made["size"]) == ([16, 24], [32, 48])
    low = read_set(outputs / "videos", TEXT_TO_VIDEO)
    assert {frames.shape for _, frames in low} == {(FRAMES, 16, 24, 3)}
    clips = StoredClips(ClipStore(outputs / "clips"), 16)
    shapes = {tuple(clips.video(i).shape[2:]) for i in range(len(clips))}
    assert shapes == {(h // 2, w // 2) for h, w in SEVERAL}

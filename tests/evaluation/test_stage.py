"""The evaluate stage on a small, real set of files: what it reads, writes, and says when something is absent."""

import json
import sys

import numpy as np
import pytest
import yaml

import stages
from lumiere.data.shards import Sample, pack_arrays, write_index, write_shards
from lumiere.data.video_io import read_video, write_video
from stages import evaluate

NAMES = ["horse", "rocket", "octopus", "penguin", "snail", "tractor", "umbrella", "zebra_face"]
T = 8


@pytest.fixture(scope="module")
def real(repo_data):
    return {name: read_video(repo_data / "raw" / f"{name}.mp4")[:T, ::2, ::2][:, :80, :80] for name in NAMES}


@pytest.fixture(scope="module")
def repo_data(request):
    return request.config.rootpath / "data"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, real):
    """Clips of eight subjects, and 'generated' videos made of half-size noisy copies of four of them."""
    root = tmp_path_factory.mktemp("evaluate stage")  # with a space, on purpose
    clips, videos = root / "clips", root / "videos"
    clips.mkdir()
    samples = [
        Sample(
            pack_arrays(frames=frames),
            np.zeros((1, 4, 8), np.float16),
            np.ones((1, 4), np.uint8),
            {"clip_id": f"{name}@0", "video": f"{name}.mp4", "start": 0.0, "captions": [f"a {name}"], "fps": 16},
        )
        for name, frames in real.items()
    ]
    splits = {"train": write_shards(clips, "train", samples[:6], 64)}
    splits["validation"] = write_shards(clips, "validation", samples[6:], 64)
    write_index(
        clips, splits, fps=16, num_frames=T, size=80, text_encoder="minilm", embed_dim=8, max_text_tokens=4
    )  # fmt: skip

    rng = np.random.default_rng(0)
    made = np.stack([real[name][:, ::2, ::2] for name in NAMES[:4]])
    made = np.clip(made + rng.normal(0, 8, made.shape), 0, 255).astype(np.uint8)
    videos.mkdir()
    np.savez_compressed(videos / "t2v_set.npz", frames=np.concatenate([made, made[:1]]))
    prompts = [*(f"a {name}" for name in NAMES[:4]), f"a {NAMES[0]}"]  # the fifth repeats a prompt
    (videos / "t2v_set.json").write_text(json.dumps({"prompts": prompts, "fps": 16}))
    for mode in ("text_to_video", "inpainting"):
        info = {"name": mode, "mode": mode, "prompt": "a horse", "seed": 0, "fps": 16, "num_frames": T}
        (videos / f"{mode}.json").write_text(json.dumps(info))
        write_video(videos / f"{mode}.mp4", real["horse"], 16)
    mask = np.zeros(made.shape[1:4], np.uint8)
    mask[:, :, :20] = 1
    np.savez_compressed(videos / "inpainting.known.npz", generated=made[0], known=made[0], known_mask=mask)
    (videos / "index.json").write_text(json.dumps(["text_to_video", "inpainting"]))
    seamed = made[:1].copy()
    seamed[:, 4:] //= 2  # a jump where two windows of four frames meet
    np.savez_compressed(videos / "seams.npz", multidiffusion=made[:1], independent=seamed)
    (videos / "seams.json").write_text(json.dumps({"window_size": 4, "overlap": 2}))
    return root


def run_stage(monkeypatch, root, out):
    params = root / "params.yaml"
    params.write_text(yaml.safe_dump({"evaluate": {"num_videos": 24, "num_frames": T}}))
    monkeypatch.setenv("LUMIERE_TRACKING", "off")
    paths = {"params": params, "videos": root / "videos", "clips": root / "clips", "out": out}
    paths["metrics"] = out.with_suffix(".json")
    monkeypatch.setattr(sys, "argv", ["evaluate", *(str(x) for key, p in paths.items() for x in (f"--{key}", p))])
    stages.run(evaluate.main)
    return json.loads(paths["metrics"].read_text())


def test_measures_everything_and_writes_the_same_bytes_twice(inputs, tmp_path, monkeypatch):
    metrics = run_stage(monkeypatch, inputs, tmp_path / "first")
    again = run_stage(monkeypatch, inputs, tmp_path / "second")
    assert metrics == again
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == [
        "consistency.png", "distances.png", "generated.png", "real.png", "report.md", "retrieval.png", "seams.png",
    ]  # fmt: skip
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name

    assert metrics["retrieval_num_candidates"] == 4  # the repeated prompt counts once
    assert metrics["frechet_num_clips"] == 4 and metrics["frechet_num_reference"] == 4
    assert metrics["retrieval_r1"] == 1.0 and metrics["text_alignment"] > metrics["text_alignment_mismatched"]
    assert metrics["seam_ratio_independent"] > metrics["seam_ratio_multidiffusion"] > 0
    assert metrics["known_psnr_inpainting"] == 99.0
    assert metrics["flicker"] < metrics["real_flicker"] < 1  # the noise flickers
    assert all(key.replace("_", "").isalnum() for key in metrics)
    report = (tmp_path / "first" / "report.md").read_text()
    assert "real-versus-real floor" in report and "bicubic" in report and "embedded judge" in report


def test_says_in_one_line_what_is_absent(inputs, tmp_path, monkeypatch, capsys):
    (inputs / "videos" / "seams.json").rename(tmp_path / "seams.json")
    try:
        with pytest.raises(SystemExit) as stopped:
            run_stage(monkeypatch, inputs, tmp_path / "out")
    finally:
        (tmp_path / "seams.json").rename(inputs / "videos" / "seams.json")
    assert stopped.value.code == 1
    assert "seams.json: no such file; run the generate stage first" in capsys.readouterr().err

"""The evaluate stage on a small, real set of files: what it reads, writes, and says when something is absent."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import stages
from lumiere import sample_files
from lumiere.data.shards import Sample, pack_frames, write_index, write_shards
from lumiere.data.video_io import read_video, write_video
from lumiere.evaluation.video_sets import read_real_set
from lumiere.sample_files import SetEntry
from stages import evaluate

DATA = Path(__file__).parents[2] / "data"
NAMES = ["horse", "rocket", "octopus", "penguin", "snail", "tractor", "umbrella", "zebra_face"]
T = 8
PICTURES = [
    "consistency.png",
    "distances.png",
    "generated.png",
    "real.png",
    "retrieval.png",
    "seams.png",
]


@pytest.fixture(scope="module")
def real():
    return {
        name: read_video(DATA / "raw" / f"{name}.mp4")[:T, ::2, ::2][:, :80, :80] for name in NAMES
    }


def write_clips(folder, clips, num_validation):
    """`clips`: (clip_id, video, frames, captions); the last `num_validation` are held out."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    samples = [
        Sample(
            pack_frames(frames),
            np.zeros((1, 4, 8), np.float16),
            np.ones((1, 4), np.uint8),
            {"clip_id": clip_id, "video": video, "start": 0.0, "captions": captions, "fps": 16},
        )
        for clip_id, video, frames, captions in clips
    ]
    cut = len(samples) - num_validation
    splits = {"train": write_shards(folder, "train", samples[:cut], 64)}
    splits["validation"] = write_shards(folder, "validation", samples[cut:], 64)
    write_index(
        folder, splits, fps=16, num_frames=T, size=80, text_encoder="minilm", embed_dim=8, max_text_tokens=4
    )  # fmt: skip


def write_set(folder, frames, prompts):
    entries = [entry(prompt, seed) for seed, prompt in enumerate(prompts)]
    sample_files.write_set(folder, "text_to_video", zip(entries, frames, strict=True))


def write_seams(folder, multidiffusion, independent, window_size=4, overlap=2):
    clips = []
    for pair in zip(multidiffusion, independent, strict=True):
        for reconciled, frames in zip((True, False), pair, strict=True):
            made = replace(
                entry("a horse", 0),
                window_size=window_size,
                overlap=overlap if reconciled else 0,
                multidiffusion=reconciled,
            )
            clips.append((made, frames))
    sample_files.write_set(folder, "seams", clips)


def entry(prompt, seed):
    return SetEntry(prompt, "text_to_video", seed, 16, clip_id="", subject="")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, real):
    """Clips of eight subjects, and 'generated' videos made of half-size noisy copies of four of them."""
    root = tmp_path_factory.mktemp("evaluate stage")  # with a space, on purpose
    videos = root / "videos"
    clips = [(f"{name}@0", f"{name}.mp4", frames, [f"a {name}"]) for name, frames in real.items()]
    write_clips(root / "clips", clips, 2)

    rng = np.random.default_rng(0)
    made = np.stack([real[name][:, ::2, ::2] for name in NAMES[:4]])
    made = np.clip(made + rng.normal(0, 8, made.shape), 0, 255).astype(np.uint8)
    videos.mkdir()
    prompts = [*(f"a {name}" for name in NAMES[:4]), f"a {NAMES[0]}"]  # the fifth repeats a prompt
    write_set(videos, np.concatenate([made, made[:1]]), prompts)
    for mode in ("text_to_video", "inpainting"):
        info = {
            "name": mode,
            "mode": mode,
            "prompt": "a horse",
            "seed": 0,
            "fps": 16,
            "num_frames": T,
        }
        (videos / f"{mode}.json").write_text(json.dumps(info))
        write_video(videos / f"{mode}.mp4", real["horse"], 16)
    mask = np.zeros(made.shape[1:4], np.uint8)
    mask[:, :, :20] = 1
    np.savez_compressed(
        videos / "inpainting.known.npz", generated=made[0], known=made[0], known_mask=mask
    )
    (videos / "index.json").write_text(json.dumps(["text_to_video", "inpainting"]))
    seamed = made[:1].copy()
    seamed[:, 4:] //= 2  # a jump where two windows of four frames meet
    write_seams(videos, made[:1], seamed)
    return root


@pytest.fixture
def inputs(whole, tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(whole, tmp_path / "inputs of a test"))


def run_stage(monkeypatch, root, out, **section):
    params = root / "params.yaml"
    params.write_text(yaml.safe_dump({"evaluate": {"num_videos": 24, "num_frames": T, **section}}))
    monkeypatch.setenv("LUMIERE_TRACKING", "off")
    paths = {"params": params, "videos": root / "videos", "clips": root / "clips", "out": out}
    paths["metrics"] = out.with_suffix(".json")
    monkeypatch.setattr(
        sys, "argv", ["evaluate", *(str(x) for key, p in paths.items() for x in (f"--{key}", p))]
    )
    stages.run(evaluate.main)
    return json.loads(paths["metrics"].read_text())


def refused(monkeypatch, capsys, root, out, **section):
    """What a run that must end in one line and exit code 1 says."""
    with pytest.raises(SystemExit) as stopped:
        run_stage(monkeypatch, root, out, **section)
    assert stopped.value.code == 1 and not out.exists()
    *before, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and not any("Traceback" in text for text in before)
    return line


def test_measures_everything_and_writes_the_same_bytes_twice(whole, tmp_path, monkeypatch, capsys):
    metrics = run_stage(monkeypatch, whole, tmp_path / "first")
    said = capsys.readouterr()
    assert "8 of 8 videos" in said.out and "left out" not in said.err
    again = run_stage(monkeypatch, whole, tmp_path / "second")
    assert metrics == again
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == sorted([*PICTURES, "report.md"])
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (
            tmp_path / "second" / name
        ).read_bytes(), name

    assert metrics["retrieval_num_candidates"] == 4  # the repeated prompt counts once
    assert metrics["frechet_num_clips"] == 4 and metrics["frechet_num_reference"] == 4
    assert (
        metrics["retrieval_r1"] == 1.0
        and metrics["text_alignment"] > metrics["text_alignment_mismatched"]
    )
    assert metrics["seam_ratio_independent"] > metrics["seam_ratio_multidiffusion"] > 0
    assert metrics["known_psnr_inpainting"] == 99.0
    assert metrics["flicker"] < metrics["real_flicker"] < 1  # the noise flickers
    assert all(key.replace("_", "").isalnum() for key in metrics)
    report = (tmp_path / "first" / "report.md").read_text()
    assert "real-versus-real floor" in report and "bicubic" in report and "embedded judge" in report
    assert "of 8 of the 8 source videos" in report
    assert "| 100.0% | 100.0% | 25.0% |" in report  # R@1: generated, real, chance


def test_three_videos_leave_the_distances_out_and_nothing_else(
    inputs, real, tmp_path, monkeypatch, capsys
):
    whole = run_stage(monkeypatch, inputs, tmp_path / "whole")
    clips = [(f"{name}@0", f"{name}.mp4", real[name], [f"a {name}"]) for name in NAMES[:3]]
    write_clips(inputs / "clips", clips, 1)
    capsys.readouterr()
    metrics = run_stage(monkeypatch, inputs, tmp_path / "few")
    assert (
        "left out: distances: 4 generated clips and 3 real videos; at least 2 and 4"
        in capsys.readouterr().err
    )
    missing = whole.keys() - metrics.keys()
    assert missing == {
        key for key in whole if key.startswith(("frechet_", "real_retrieval_"))
    }  # 3 cannot rank 4
    assert metrics.keys() < whole.keys() and all(np.isfinite(list(metrics.values())))
    report = (tmp_path / "few" / "report.md").read_text()
    assert (
        "Left out: 4 generated clips and 3 real videos" in report and "distances.png" not in report
    )
    assert "Retrieval of real clips left out: 3 clips with different prompts; at least 4" in report
    assert all((tmp_path / "few" / name).is_file() for name in PICTURES)  # dvc.yaml lists them


def test_a_single_prompt_and_a_single_video_are_measured(inputs, real, tmp_path, monkeypatch):
    write_clips(inputs / "clips", [("horse@0", "horse.mp4", real["horse"], ["a horse"])], 0)
    write_set(inputs / "videos", real["horse"][None, :, ::2, ::2], ["a horse"])
    metrics = run_stage(monkeypatch, inputs, tmp_path / "out")
    assert not any("retrieval" in key or "frechet" in key or "mismatched" in key for key in metrics)
    assert {"text_alignment", "flicker", "real_motion", "seam_ratio_independent"} <= metrics.keys()
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Retrieval left out: 1 clips with different prompts; at least 2" in report


@pytest.mark.parametrize("window_size", [1, T, T + 5])
def test_clips_without_two_windows_leave_the_seams_out(
    inputs, tmp_path, monkeypatch, capsys, window_size
):
    still = np.zeros((1, T, 8, 8, 3), np.uint8)
    write_seams(inputs / "videos", still, still, window_size, 0)
    metrics = run_stage(monkeypatch, inputs, tmp_path / "out")
    assert not any(key.startswith("seam") for key in metrics) and "frechet_clip" in metrics
    why = f"windows of {window_size} in clips of {T} frames"
    assert f"left out: seams: {why}" in capsys.readouterr().err
    assert f"Left out: {why}" in (tmp_path / "out" / "report.md").read_text()


def test_seams_of_a_still_clip_are_left_out_rather_than_infinite(inputs, tmp_path, monkeypatch):
    still = np.zeros((1, T, 8, 8, 3), np.uint8)
    jump = still.copy()
    jump[:, 4:] = 9
    write_seams(inputs / "videos", still, jump)
    metrics = run_stage(monkeypatch, inputs, tmp_path / "out")
    assert not any(key.startswith("seam") for key in metrics)


def test_multidiffusion_is_also_measured_at_its_own_borders(inputs, real, tmp_path, monkeypatch):
    clips = real["snail"][None].copy()
    # Windows of four overlap by two: one begins at frame 2, where no independent one does.
    clips[:, 2:] //= 2
    write_seams(inputs / "videos", clips, clips)
    metrics = run_stage(monkeypatch, inputs, tmp_path / "out")
    assert (
        metrics["seam_ratio_multidiffusion"] < 1 < metrics["seam_ratio_multidiffusion_own_borders"]
    )
    assert "1\\|2, 3\\|4, 5\\|6" in (tmp_path / "out" / "report.md").read_text()


def test_real_clips_are_counted_by_source_video(tmp_path, real):
    parts = [
        (f"trip#{k}@{w}", "trip.mp4", real[NAMES[k]], [f"part {k}"])
        for k in range(3)
        for w in range(2)
    ]
    others = [
        ("a/b#c.mp4@0", "a/b#c.mp4", real["snail"], ["a snail"]),
        ("x@1@0", "x@1.mp4", real["horse"], ["x"]),
    ]
    write_clips(tmp_path / "clips", parts + others, 1)
    found = read_real_set(tmp_path / "clips", (20, 20), T)
    assert found.groups == ["a/b#c.mp4", "trip.mp4", "x@1.mp4"] and found.num_sources == 3
    assert found.held_out == [False, False, True] and found.prompts == ["a snail", "part 0", "x"]
    few = read_real_set(tmp_path / "clips", (20, 20), T, max_videos=2)
    assert (len(few.frames), few.num_sources) == (2, 3)


def test_real_clips_that_share_a_caption_are_not_each_others_rivals(
    inputs, real, tmp_path, monkeypatch
):
    """Four captions of two videos each: with both of one among the candidates, R@1 could not be 1."""
    clips = [
        (f"{name}{k}@0", f"{name}{k}.mp4", real[name], [f"a {name}"])
        for name in NAMES[:4]
        for k in range(2)
    ]
    write_clips(inputs / "clips", clips, 2)
    metrics = run_stage(monkeypatch, inputs, tmp_path / "out")
    assert metrics["real_retrieval_r1"] == 1.0
    assert metrics["frechet_num_reference"] == 4  # eight videos all the same


def test_says_in_one_line_what_is_absent(inputs, tmp_path, monkeypatch, capsys):
    (inputs / "videos" / "sets" / "seams.json").unlink()
    assert "seams.json: no such file; run the generate stage first" in refused(
        monkeypatch, capsys, inputs, tmp_path / "out"
    )


def test_says_in_one_line_that_clips_are_shorter(inputs, tmp_path, monkeypatch, capsys):
    write_set(inputs / "videos", np.zeros((2, 2 * T, 8, 8, 3), np.uint8), ["a", "b"])
    line = refused(monkeypatch, capsys, inputs, tmp_path / "out", num_frames=2 * T)
    assert f"clips of {T} frames; generated ones have {2 * T}" in line


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"open_clip_model": "ViT-B32"}, ("open_clip_model", "ViT-B32", "ViT-B-32")),
        ({"judge": "nowhere"}, ("judge", "nowhere", "config.json")),
        ({"open_clip_model": "ViT-B-32", "judge": "nowhere"}, ("judge", "nowhere", "laion2b")),
    ],
)
def test_a_judge_that_is_not_there_is_told_in_one_line(
    inputs, tmp_path, monkeypatch, capsys, section, words
):
    line = refused(monkeypatch, capsys, inputs, tmp_path / "out", **section)
    assert "params.yaml: evaluate: " in line and all(word in line for word in words)


def test_warns_of_a_judge_that_knows_none_of_the_videos(inputs, tmp_path, monkeypatch, capsys):
    run_stage(monkeypatch, inputs, tmp_path / "out")  # the captions above are not the sample's
    assert "warning: the judge was trained on none of these videos" in capsys.readouterr().err
    assert "trained on none of these videos" in (tmp_path / "out" / "report.md").read_text()


def test_warns_of_a_judge_that_was_trained_with_another_split(
    inputs, real, tmp_path, monkeypatch, capsys
):
    known = (DATA.parent / "pretrained" / "judge" / "captions.txt").read_text().splitlines()
    clips = [
        (f"{name}@0", f"{name}.mp4", frames, [known[i]])
        for i, (name, frames) in enumerate(real.items())
    ]
    write_clips(inputs / "clips", clips, 2)
    run_stage(monkeypatch, inputs, tmp_path / "out")
    assert (
        "warning: the judge was trained on 2 of the 2 clips that are held out"
        in capsys.readouterr().err
    )

    clips[-2:] = [(*clip[:3], [f"unseen {i}"]) for i, clip in enumerate(clips[-2:])]
    write_clips(inputs / "clips", clips, 2)
    run_stage(monkeypatch, inputs, tmp_path / "out")
    assert "warning" not in capsys.readouterr().err
    report = (tmp_path / "out" / "report.md").read_text()
    assert (
        "The judge was trained on 6 of the 8 real clips here, and on 0 of the 2 held-out clips among them."
        in report
    )

"""The evaluate stage on a small, real set of files: what it reads, writes, and says when something is absent."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import stages
from lumiere import sample_files
from lumiere.errors import DataError
from lumiere.evaluation.clip_sets import RealClips
from lumiere.evaluation.folders import load_networks
from lumiere.evaluation.measure_videos import Networks
from lumiere.evaluation.scores import LeftOut
from lumiere.evaluation.stage_sets import StageResult, evaluate_stage, familiarity_warning
from lumiere.sample_files import SetEntry
from stages import evaluate
from tests.evaluation.small_videos import Clip, real_clip, write_clips

DATA = Path(__file__).parents[2] / "data"
NAMES = ["horse", "rocket", "octopus", "penguin", "snail", "tractor"]
T, SIDE = 8, 40  # frames; pixels of the real clips
HALF = SIDE // 2
JUDGE = DATA.parent / "pretrained" / "judge"
KNOWN = (JUDGE / "captions.txt").read_text(encoding="utf-8").splitlines()
# The judge was trained on the captions of the training clips, and on none of the others.
CAPTIONS = {
    name: KNOWN[index] if index < 4 else f"an unseen {name}" for index, name in enumerate(NAMES)
}


def windows(names: Sequence[str]) -> list[Clip]:
    """Two windows of each video: (clip_id, frames, captions)."""
    return [
        (f"{name}@{window}", real_clip(name, T, T * window, SIDE), [CAPTIONS[name]])
        for name in names
        for window in (0, 1)
    ]


def entry(name: str, mode: str = "text_to_video", **changes: Any) -> SetEntry:
    made = SetEntry(CAPTIONS[name], mode, 0, 16, clip_id=f"{name}@0", subject=name)
    return replace(made, **changes)


def made_of(name: str, sigma: float = 8, num_frames: int = T) -> np.ndarray:
    """A 'generated' video: the real one at half its size, with noise."""
    frames = real_clip(name, num_frames, 0, SIDE)[:, ::2, ::2].astype(float)
    noise = np.random.default_rng(0).normal(0, sigma, frames.shape)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


def write_set(folder: Path, name: str, clips: Sequence[tuple[SetEntry, np.ndarray]]) -> None:
    sample_files.write_set(folder, name, clips)


def write_seams(folder: Path, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    clips = []
    for name, pair in zip(NAMES, pairs, strict=False):
        for reconciled, frames in zip((True, False), pair, strict=True):
            overlap = 2 if reconciled else 0
            made = entry(name, window_size=4, overlap=overlap, multidiffusion=reconciled)
            clips.append((made, frames))
    write_set(folder, "seams", clips)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of six videos, two of them held out, and a batch with all sets."""
    root = tmp_path_factory.mktemp("evaluate stage")  # with a space, on purpose
    videos = root / "videos"
    videos.mkdir()
    write_clips(root / "clips", windows(NAMES), 4)

    names = [*NAMES[:3], NAMES[0]]  # the fourth repeats a subject
    write_set(videos, "text_to_video", [(entry(name), made_of(name)) for name in names])
    held_out = [(entry(name, held_out=True), made_of(name)) for name in NAMES[4:]]
    write_set(videos, "held_out", held_out)
    image = [(entry(name, "image_to_video"), made_of(name, 4)) for name in NAMES[:2]]
    write_set(videos, "image_to_video", image)
    styled = [
        (entry("horse", "style", style="ink", alpha=alpha), made_of("horse", 40 * alpha))
        for alpha in (0.0, 1.0)
    ]
    write_set(videos, "styles", styled)
    jump = made_of("horse").copy()
    jump[4:] //= 2  # where two windows of four frames meet
    write_seams(videos, [(made_of("horse"), jump), (made_of("rocket"), made_of("rocket"))])

    known = made_of("horse")
    mask = np.zeros(known.shape[:3], np.uint8)
    mask[:, :, :10] = 1
    info = {"name": "inpainting", "mode": "inpainting", "prompt": CAPTIONS["horse"], "fps": 16}
    arrays = {"generated": known, "known": known, "known_mask": mask}
    sample_files.write_sample(videos, sample_files.Sample(info, known, arrays))
    sample_files.write_index(videos, ["inpainting"])

    (root / "styles" / "ink").mkdir(parents=True)
    for seed in range(4):
        picture = np.random.default_rng(seed).integers(0, 256, (HALF, HALF, 3), dtype=np.uint8)
        Image.fromarray(picture).save(root / "styles" / "ink" / f"{seed}.png")
    return root


@pytest.fixture
def inputs(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(whole, tmp_path / "inputs of a test"))


def run_stage(root: Path, out: Path, scratch: Path, **section: Any) -> dict[str, float]:
    """Run the stage with a section of params.yaml; return its metrics."""
    params = out.with_name("params.yaml")
    params.write_text(yaml.safe_dump({"evaluate": {"num_videos": 24, "num_frames": T, **section}}))
    paths = {
        "params": params, "videos": root / "videos", "clips": root / "clips",
        "styles": root / "styles", "scratch": scratch, "out": out,
        "metrics": out.with_suffix(".json"),
    }  # fmt: skip
    words = [str(word) for key, path in paths.items() for word in (f"--{key}", path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUMIERE_TRACKING", "off")
        patch.setattr(sys, "argv", ["evaluate", *words])
        stages.run(evaluate.main)
    metrics: dict[str, float] = json.loads(paths["metrics"].read_text())
    return metrics


@dataclass(frozen=True)
class Done:
    """A run of the stage on `whole`, the first one, with what it printed and a cache of its features."""

    out: Path
    scratch: Path
    metrics: dict[str, float]
    printed: str
    told: str


@pytest.fixture(scope="module")
def done(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    root = tmp_path_factory.mktemp("done")
    printed, told = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(told):
        metrics = run_stage(whole, root / "out", root / "scratch")
    return Done(root / "out", root / "scratch", metrics, printed.getvalue(), told.getvalue())


@pytest.fixture
def networks(done: Done) -> Networks:
    return load_networks([], str(done.scratch / "features"))


def measure(root: Path, networks: Networks) -> StageResult:
    """What the stage measures of changed inputs, without the pages."""
    folders = root / "videos", root / "clips", root / "styles"
    return evaluate_stage(*folders, networks, [], num_videos=24, num_frames=T)


@pytest.fixture
def refused(done: Done, capsys: pytest.CaptureFixture[str]) -> Any:
    """What a run that must end in one line and exit code 1 says."""

    def refuse(root: Path, out: Path, **section: Any) -> str:
        with pytest.raises(SystemExit) as stopped:
            run_stage(root, out, done.scratch, **section)
        told = capsys.readouterr().err
        assert stopped.value.code == 1 and not out.exists(), told
        # A thread that another test left behind may write to stderr, too.
        errors = [line for line in told.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "Traceback" not in told, told
        return errors[0]

    return refuse


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_measures_everything(done: Done) -> None:
    metrics = done.metrics
    assert "independent_frechet" in done.printed and "report.html" in done.printed
    assert "warning" not in done.told

    assert (metrics["num_generated"], metrics["num_real"], metrics["num_matched"]) == (3, 3, 3)
    assert metrics["num_blank"] == metrics["num_unreadable"] == 0
    # Noise is told apart from the other window of the same real clips.
    assert metrics["independent_frechet"] > 2 * metrics["independent_frechet_floor"] > 0
    assert metrics["independent_kernel"] > metrics["independent_kernel_floor"]
    assert metrics["independent_similarity"] < metrics["independent_similarity_floor"]
    assert metrics["frame_change"] > metrics["frame_change_floor"]
    assert metrics["held_out_independent_frechet"] > metrics["held_out_independent_frechet_floor"]
    assert metrics["seam_ratio_independent"] > metrics["seam_ratio_multidiffusion"] > 0
    assert metrics["known_psnr_inpainting"] == 99.0
    assert metrics["known_worst_error_inpainting"] == 0
    assert metrics["style_ink_alpha_100_distance"] < metrics["style_ink_alpha_000_distance"]
    assert 0 < metrics["style_ink_alpha_100_content"] < 1
    assert {"text_alignment", "retrieval_r1", "retrieval_median_rank"} <= metrics.keys()
    assert {"image_colour_drift", "image_identity_drift"} <= metrics.keys()
    # MLflow and DVC take these names.
    assert all(key.replace("_", "").isalnum() and key == key.lower() for key in metrics)

    files = contents(done.out)
    plots = {"scores", "spectrum", "drift", "drift_identity", "seams", "per_video"}
    assert {name for name in files if name.startswith("plots/")} == {
        f"plots/{name}.csv" for name in plots
    }
    page = files["report.html"].decode()
    assert CAPTIONS["horse"] in page and "EfficientNet-Lite0" in page and "<script" not in page
    assert "trained on 4 of the 6 real videos, and on 0 of the 2 held-out ones" in page
    details = json.loads(files["scores.json"])
    assert {score["key"] for score in details} <= metrics.keys()
    assert all(score["interval"] for score in details if score["key"] == "independent_frechet")


def test_equal_inputs_give_equal_bytes(whole: Path, done: Done, tmp_path: Path) -> None:
    """With features that are there already, over an old report, and whatever a commit has."""
    out = tmp_path / "out"
    (out / "plots").mkdir(parents=True)
    (out / "plots" / "old.csv").write_text("x\n1\n")
    out.with_suffix(".json").write_text('{"independent_frechet": 1.0}')
    person = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*person, "commit", "-qm", "metrics"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    assert run_stage(whole, out, done.scratch) == done.metrics
    assert contents(out) == contents(done.out)
    assert out.with_suffix(".json").read_bytes() == done.out.with_suffix(".json").read_bytes()
    assert "chet distance" in (done.scratch / "changes.html").read_text()  # against the commit


def test_empty_sets_are_left_out_and_told(inputs: Path, networks: Networks) -> None:
    for name in ("image_to_video", "styles", "seams"):
        write_set(inputs / "videos", name, [])
    # Two clips of one held-out video give no distance, but no error either.
    one = [(entry("snail", held_out=True, seed=seed), made_of("snail")) for seed in (0, 1)]
    write_set(inputs / "videos", "held_out", one)
    result = measure(inputs, networks)
    assert not any(
        key.startswith(("held_out", "image_", "style", "seam")) for key in result.metrics
    )
    assert "independent_frechet" in result.metrics
    assert (
        LeftOut("Seams", "there are no clips; generate.seam_videos is 0.")
        in result.content.left_out
    )
    why = "there are 2 clips of 1 source video; clips of at least 2 are needed."
    assert LeftOut("Held-out captions", why) in result.content.left_out


@pytest.mark.parametrize(("num_generated", "num_frames"), [(T, T - 4), (T + 4, T)])
def test_generated_clips_may_be_longer_than_what_is_measured(
    inputs: Path, networks: Networks, num_generated: int, num_frames: int
) -> None:
    """Longer than evaluate.num_frames, or than the real clips; seams are measured in all frames."""
    videos = inputs / "videos"
    made = {name: made_of(name, num_frames=num_generated) for name in NAMES}
    for name in ("text_to_video", "image_to_video"):
        write_set(videos, name, [(entry(video, name), made[video]) for video in NAMES[:3]])
    held_out = [(entry(video, held_out=True), made[video]) for video in NAMES[4:]]
    write_set(videos, "held_out", held_out)
    styled = [
        (entry("horse", "style", style="ink", alpha=alpha), made["horse"]) for alpha in (0.0, 1.0)
    ]
    write_set(videos, "styles", styled)
    write_seams(videos, [(made[name], made[name]) for name in NAMES[:3]])
    folders = videos, inputs / "clips", inputs / "styles"
    result = evaluate_stage(*folders, networks, [], num_videos=24, num_frames=num_frames)
    assert {
        "independent_frechet", "held_out_independent_frechet", "image_colour_drift",
        "style_ink_alpha_100_distance", "seam_ratio_multidiffusion",
    } <= result.metrics.keys()  # fmt: skip
    real_is_long_enough = num_generated <= T
    assert ("seam_ratio_multidiffusion_floor" in result.metrics) is real_is_long_enough
    told = [remark.why for remark in result.content.left_out if remark.name == "Floor of the seams"]
    assert bool(told) is not real_is_long_enough
    [curve] = [curve for curve in result.content.curves if curve.key == "seams"]
    assert len(curve.series["MultiDiffusion"]) == num_generated - 1
    assert ("real" in curve.series) is real_is_long_enough


def test_blank_videos_are_counted_and_told(inputs: Path, networks: Networks) -> None:
    blank = np.zeros((T, HALF, HALF, 3), np.uint8)
    write_set(inputs / "videos", "text_to_video", [(entry(name), blank) for name in NAMES[:3]])
    result = measure(inputs, networks)
    metrics = result.metrics
    assert metrics["num_blank"] == 3 and metrics["is_static"] == 1
    assert metrics["independent_frechet"] > 2 * metrics["independent_frechet_floor"]
    told = {remark.name: remark.why for remark in result.content.left_out}
    assert told["Generated videos of a single colour"].startswith("3 of 3 show nothing")


def test_one_window_of_each_video_takes_other_times_as_the_floor(
    inputs: Path, networks: Networks
) -> None:
    clips = [clip for clip in windows(NAMES) if clip[0].endswith("@0")]
    write_clips(inputs / "clips", clips, 2)
    result = measure(inputs, networks)
    metrics = result.metrics
    assert metrics["independent_frechet"] > metrics["independent_frechet_floor"] > 0
    floor = "The floor of a distance compares other frames of the same real videos."
    assert ("Floor", floor) in result.content.facts


def test_says_in_one_line_what_is_absent(inputs: Path, refused: Any, tmp_path: Path) -> None:
    (inputs / "videos" / "sets" / "seams.json").unlink()
    line = refused(inputs, tmp_path / "out")
    assert "seams.json: no such file; run the generate stage first" in line


def test_says_in_one_line_what_is_damaged(inputs: Path, refused: Any, tmp_path: Path) -> None:
    path = inputs / "videos" / "sets" / "text_to_video.npz"
    path.write_bytes(path.read_bytes()[:-50])
    line = refused(inputs, tmp_path / "out")
    assert "text_to_video.npz: cannot be read" in line and "run the generate stage again" in line


def test_says_in_one_line_that_real_clips_are_shorter(
    inputs: Path, refused: Any, tmp_path: Path
) -> None:
    line = refused(inputs, tmp_path / "out", num_frames=2 * T)
    assert f"clips of {T} frames; generated ones have {2 * T}" in line


def test_says_in_one_line_that_generated_clips_are_shorter(
    inputs: Path, refused: Any, tmp_path: Path
) -> None:
    clips = [(entry(name), made_of(name)[: T - 1]) for name in NAMES[:2]]
    write_set(inputs / "videos", "text_to_video", clips)
    line = refused(inputs, tmp_path / "out")
    assert f"clip 0 has {T - 1} frames; {T} are needed; run the generate stage again" in line


def test_a_single_subject_is_refused(inputs: Path, refused: Any, tmp_path: Path) -> None:
    clips = [(entry("horse"), made_of("horse"))] * 2
    write_set(inputs / "videos", "text_to_video", clips)
    line = refused(inputs, tmp_path / "out")
    assert "clips of 1 source video; at least 2 are needed" in line


@pytest.mark.parametrize("name", ["text_to_video", "held_out", "image_to_video", "seams"])
def test_clips_of_another_frame_rate_are_refused_at_once(
    inputs: Path, networks: Networks, name: str
) -> None:
    clips = [(entry("horse", fps=8.0), made_of("horse"))] * 2
    write_set(inputs / "videos", name, clips)
    with pytest.raises(DataError, match=rf"{name}.npz: clips of 8 frames a second, but .* have 16"):
        measure(inputs, networks)


def test_styles_of_one_name_in_the_metrics_are_refused_at_once(
    inputs: Path, networks: Networks
) -> None:
    clips = [
        (entry("horse", "style", style=style, alpha=1.0), made_of("horse"))
        for style in ("oil paint", "Oil-Paint")
    ]
    write_set(inputs / "videos", "styles", clips)
    message = r"'oil paint' .* and 'Oil-Paint' .* share the metrics style_oil_paint_alpha_100"
    with pytest.raises(DataError, match=message):
        measure(inputs, networks)


def test_a_clip_of_another_decoding_is_refused(inputs: Path, refused: Any, tmp_path: Path) -> None:
    write_clips(inputs / "clips", windows(NAMES[1:]), 2)
    line = refused(inputs, tmp_path / "out")
    assert "no clip of horse" in line and "run the generate stage again" in line


def test_missing_pictures_of_a_style_are_named(inputs: Path, refused: Any, tmp_path: Path) -> None:
    shutil.rmtree(inputs / "styles" / "ink")
    line = refused(inputs, tmp_path / "out")
    assert "ink: 0 pictures; the distance to a style needs at least 2" in line


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"open_clip_model": "ViT-B32"}, ("open_clip_model", "ViT-B32", "ViT-B-32")),
        ({"judge": "nowhere"}, ("judge", "nowhere", "config.json")),
        ({"backbones": ["i3e=x"]}, ("unknown backbone 'i3e'", "did you mean i3d?")),
        ({"backbones": ["i3d=gone.pt"]}, ("gone.pt: no such file of weights",)),
        ({"backbones": ["efficientnet_lite0"]}, ("given twice",)),
    ],
)
def test_a_network_that_is_not_there_is_told_in_one_line(
    inputs: Path, refused: Any, tmp_path: Path, section: dict[str, Any], words: tuple[str, ...]
) -> None:
    line = refused(inputs, tmp_path / "out", **section)
    assert all(word in line for word in words)


@pytest.mark.parametrize(
    ("captions", "warning"),
    [
        (KNOWN, ""),
        ([], ""),
        (["another"], "the judge was trained on none of these videos"),
        ([*CAPTIONS.values()], "trained on 2 of the 2 videos that are held out here"),
    ],
)
def test_doubts_a_judge_of_other_videos_or_another_split(
    whole: Path, captions: list[str], warning: str
) -> None:
    judge: Any = SimpleNamespace(captions=frozenset(captions))
    found = familiarity_warning(judge, RealClips(whole / "clips", T))
    assert warning in found and bool(warning) == bool(found)

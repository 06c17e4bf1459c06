"""`lumiere evaluate` on small folders: what it writes, and one sentence for whatever is wrong."""

from __future__ import annotations

import csv
import hashlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import lumiere.evaluation.backbones.i3d as i3d
from lumiere.cli.app import app
from lumiere.evaluation import folders
from lumiere.evaluation.backbones.efficientnet_lite import EfficientNetLite0Backbone
from tests.cli.conftest import names_in
from tests.evaluation.small_videos import drifting, write_folder
from tests.full_disk import full_disk

MAIN = [
    "independent_frechet",
    "independent_frechet_floor",
    "independent_kernel",
    "independent_kernel_floor",
]
NAMES = ["fox", "cat", "owl"]


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features are kept between these tests, but not in the user's folder."""
    matplotlib.get_cachedir()  # remembered, so that its fonts are not listed again
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def few_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the test of all files draws the pictures for `dvc plots`, which take most of the time."""
    if request.function is not test_writes_a_report_and_the_same_again:
        monkeypatch.setattr("lumiere.evaluation.report.page.write_plots", lambda *_: None)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of three videos: real ones of two windows, copies, noise, and black ones."""
    root = tmp_path_factory.mktemp("videos")
    real = {name: drifting(index, 8) for index, name in enumerate(NAMES)}
    rng = np.random.default_rng(0)
    write_folder(root / "real", {f"{name}.mp4": frames for name, frames in real.items()})
    write_folder(root / "window", {f"{name}.mp4": frames[4:] for name, frames in real.items()})
    noise = {f"{name}.mp4": rng.integers(0, 256, (4, 24, 24, 3), dtype=np.uint8) for name in NAMES}
    write_folder(root / "noise", noise)
    write_folder(
        root / "black", {f"{name}.mp4": np.zeros((4, 24, 24, 3), np.uint8) for name in NAMES}
    )
    return root


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def evaluated(out: Path, *arguments: object) -> dict[str, float]:
    result = run(*arguments, "-o", out)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{out / 'report.html'}\n"
    metrics: dict[str, float] = json.loads((out / "metrics.json").read_text())
    return metrics


def refused(out: Path, *arguments: object) -> str:
    """The sentence that a call ends with; it must leave nothing behind."""
    before = names_in(out) if out.is_dir() else []
    result = run(*arguments, "-o", out)
    assert result.exit_code == 2 and result.stdout == ""
    assert isinstance(result.exception, SystemExit), result.exception
    line: str = result.stderr.splitlines()[-1]
    assert line.startswith("error: ") and "Traceback" not in result.stderr
    assert (names_in(out) if out.is_dir() else []) == before
    return line.removeprefix("error: ")


def test_real_videos_score_at_their_floor_and_noise_far_from_it(
    videos: Path, tmp_path: Path
) -> None:
    """The generated videos are the second window of the real ones: the floor itself."""
    real = evaluated(tmp_path / "a", videos / "window", "--real", videos / "real")
    assert set(MAIN) <= real.keys()
    assert real["independent_frechet"] == pytest.approx(real["independent_frechet_floor"], rel=0.5)
    noise = evaluated(tmp_path / "b", videos / "noise", "--real", videos / "real")
    assert noise["independent_frechet_floor"] == real["independent_frechet_floor"]
    assert noise["independent_frechet"] > 5 * noise["independent_frechet_floor"]
    assert noise["independent_kernel"] > real["independent_kernel"]
    assert noise["num_matched"] == noise["num_generated"] == noise["num_real"] == 3


def test_writes_a_report_and_the_same_again(videos: Path, tmp_path: Path) -> None:
    folders = videos / "window", "--real", videos / "real"
    evaluated(tmp_path / "a", *folders)
    evaluated(tmp_path / "b", *folders)
    for stale in ("report.html", "spectrum.png", "plots/spectrum.csv"):
        (tmp_path / "b" / stale).write_text("old")
    (tmp_path / "b" / "notes.txt").write_text("mine")
    evaluated(tmp_path / "b", *folders, "--cache", "none")
    names = names_in(tmp_path / "a")
    assert {"metrics.json", "report.html", "scores.json", "plots/scores.csv"} <= set(names)
    assert names_in(tmp_path / "b") == sorted([*names, "notes.txt"])
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    page = (tmp_path / "a" / "report.html").read_text()
    assert "data:image/webp;base64," in page and "EfficientNet-Lite0" in page


@pytest.mark.parametrize("name", ["report.html", "metrics.json", "plots/scores.csv"])
def test_files_of_somebody_else_are_not_replaced(videos: Path, tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_text("theirs")
    call = ["evaluate", str(videos / "window"), "--real", str(videos / "real"), "-o", str(tmp_path)]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 2
    assert f"{name} is there and was not written by lumiere evaluate" in result.output
    assert place.read_text() == "theirs" and names_in(tmp_path) == [name]


def test_captions_with_odd_letters_match_and_are_escaped(videos: Path, tmp_path: Path) -> None:
    odd = ['a <b>"bold"</b> fox, running', "un chat\nqui dort 猫", "O'owl & co"]
    generated = {f"é {index} <i>.mp4": drifting(index) for index in range(3)}
    write_folder(tmp_path / "theirs", generated)
    table = tmp_path / "captions.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "caption"])
        writer.writerows(zip(generated, odd, strict=True))
        writer.writerows(zip(NAMES, odd, strict=True))
        writer.writerow(["nobody.mp4", "nothing"])
    options = tmp_path / "theirs", "--real", videos / "real", "--captions", table
    result = run(*options, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert f"{table}: 1 of its 7 videos is in neither folder (nobody.mp4)" in result.stderr
    assert "the embedded judge was trained on none of these captions" in result.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["num_matched"] == 3
    page = (tmp_path / "out" / "report.html").read_text()
    assert "&lt;b&gt;&#34;bold&#34;&lt;/b&gt; fox, running" in page and "猫" in page
    assert '<b>"bold' not in page and "<i>.mp4" not in page


def test_known_captions_are_judged(videos: Path, tmp_path: Path) -> None:
    from lumiere.pipelines.assemble import PRETRAINED

    known = (PRETRAINED / "judge" / "captions.txt").read_text(encoding="utf-8").splitlines()
    for index, name in enumerate(NAMES):  # as `lumiere generate` writes them
        (tmp_path / "theirs").mkdir(exist_ok=True)
        source = videos / "window" / f"{name}.mp4"
        (tmp_path / "theirs" / source.name).write_bytes(source.read_bytes())
        (tmp_path / "theirs" / f"{name}.json").write_text(json.dumps({"prompt": known[index]}))
    folders = tmp_path / "theirs", "--real", tmp_path / "theirs"
    metrics = evaluated(tmp_path / "out", *folders)
    assert {"text_alignment", "retrieval_r1"} <= metrics.keys()


def test_without_the_judge_text_is_left_out_and_told(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumiere.pipelines.assemble.PRETRAINED", tmp_path / "gone")
    table = tmp_path / "captions.csv"
    table.write_text("video,caption\n" + "".join(f"{name},a {name}\n" for name in NAMES))
    options = videos / "window", "--real", videos / "real", "--captions", table
    result = run(*options, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "Text alignment: the embedded judge is not here; set LUMIERE_PRETRAINED" in result.stderr
    assert "set LUMIERE_PRETRAINED" in (tmp_path / "out" / "report.html").read_text()


def test_length_and_rate_can_be_chosen(videos: Path, tmp_path: Path) -> None:
    folders = videos / "window", "--real", videos / "real"
    result = run(*folders, "--frames", 2, "--fps", 4, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "their first 2 frames at 4 frames a second and 24×24 pixels" in result.stderr


def test_a_baseline_is_compared_with(videos: Path, tmp_path: Path) -> None:
    real = "--real", videos / "real"
    evaluated(tmp_path / "before", videos / "noise", *real)
    baseline = tmp_path / "before" / "metrics.json"
    result = run(videos / "window", *real, "--baseline", baseline, "-o", tmp_path / "after")
    assert result.exit_code == 0 and "better" in result.stderr and str(baseline) in result.stderr
    assert str(baseline) in (tmp_path / "after" / "report.html").read_text()


# --- other networks --------------------------------------------------------------------------------------------------


class TinyI3D(nn.Module):
    """The interface of the published TorchScript file, and a mean over blocks as its features."""

    def __init__(self, fill: float = 1.0) -> None:
        super().__init__()
        self.fill = fill

    def forward(self, video: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        blocks = torch.nn.functional.adaptive_avg_pool3d(video, [2, 4, 4]).flatten(1)
        return self.fill * blocks


def save_i3d(path: Path, fill: float = 1.0) -> str:
    torch.jit.script(TinyI3D(fill)).save(str(path))
    return f"i3d={path}@{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """I3D takes sixteen frames."""
    videos = {f"{name}.mp4": drifting(index, 16) for index, name in enumerate(NAMES)}
    return write_folder(tmp_path_factory.mktemp("long"), videos)


def test_another_networks_scores_have_its_name(long: Path, tmp_path: Path) -> None:
    words = long, "--real", long, "--backbone", save_i3d(tmp_path / "tiny.pt")
    metrics = evaluated(tmp_path / "out", *words)
    assert metrics["i3d_frechet"] == pytest.approx(0, abs=1e-6)
    assert "fvd" not in metrics  # only with the published weights
    assert set(MAIN) <= metrics.keys()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "the first 16 frames; the shorter side resized to 224" in page


def test_a_network_that_returns_nan_is_refused(long: Path, tmp_path: Path) -> None:
    words = long, "--real", long, "--backbone", save_i3d(tmp_path / "nan.pt", float("nan"))
    line = refused(tmp_path / "out", *words)
    assert "nan.pt returns NaN or infinite values; get the weights again" in line


def test_features_of_zeros_are_measured_or_left_out(long: Path, tmp_path: Path) -> None:
    words = long, "--real", long, "--backbone", save_i3d(tmp_path / "zero.pt", 0.0)
    metrics = evaluated(tmp_path / "out", *words)
    assert metrics["i3d_frechet"] == 0


def test_frame_features_of_zeros_are_left_out_and_told(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have no direction, so no cosine."""

    def zeros(self: object, frames: np.ndarray) -> np.ndarray:
        return np.zeros((len(frames), 5), np.float32)

    monkeypatch.setattr(EfficientNetLite0Backbone, "embed", zeros)
    folders = videos / "window", "--real", videos / "real", "--cache", "none"
    result = run(*folders, "-o", tmp_path / "out")
    assert result.exit_code == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["independent_frechet"] == 0
    assert not {"independent_consistency", "independent_similarity"} & metrics.keys()
    assert (
        "Similarity with the real video of its caption: embeddings: a row is zero" in result.stderr
    )


def test_other_weights_than_the_published_ones_are_refused(long: Path, tmp_path: Path) -> None:
    spec = save_i3d(tmp_path / "tiny.pt").partition("@")[0]
    line = refused(tmp_path / "out", long, "--real", long, "--backbone", spec)
    assert i3d.PUBLISHED_SHA256 in line and "get the file again" in line


def test_videos_too_short_for_a_network_are_refused(videos: Path, tmp_path: Path) -> None:
    backbone = save_i3d(tmp_path / "tiny.pt")
    words = videos / "window", "--real", videos / "real", "--backbone", backbone
    line = refused(tmp_path / "out", *words)
    assert "--backbone i3d: it needs 16 frames, and these videos have 4 at 8 a second" in line


def test_the_list_of_networks_needs_no_videos() -> None:
    result = run("--backbone", "list")
    assert result.exit_code == 0
    names = [line.split()[0] for line in result.stdout.splitlines()]
    assert names[0] == "efficientnet_lite0" and {"i3d", "inception_v3", "open_clip"} <= set(names)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone", "--real", "real"), "gone: no such folder; give a folder of videos"),
        (("window", "--real", "gone"), "gone: no such folder; give a folder of videos"),
        (("empty", "--real", "real"), "empty: no videos; expected files that end in"),
        (("one", "--real", "real"), "one: 1 generated video to measure; a distance needs at least 2"),
        (("text", "--real", "real"), "2 cannot be used, such as a.mp4: cannot be opened"),
        (("window", "--real", "real", "--frames", "40"), "4 frames at 8 a second; 40 are needed"),
        (("window", "--real", "real", "--fps", "0"), "--fps 0; allowed: a number above 0"),
        (("window", "--real", "real", "--fps", "x"), "--fps x; allowed: a number above 0"),
        (("window", "--real", "real", "--captions", "gone"), "gone: no such file; expected a CSV file"),
        (("window", "--real", "real", "--captions", "bad.csv"), "bad.csv: no column 'video'"),
        (("window", "--real", "real", "--baseline", "gone"), "gone: No such file or directory; give"),
        (("window", "--real", "real", "--baseline", "bad.csv"), "bad.csv: not JSON"),
        (("window", "--real", "real", "--backbone", "i4d=x"), "unknown backbone 'i4d' (did you mean i3d?)"),
        (("window", "--real", "real", "--backbone", "i3d=gone"), "gone: no such file of weights; download it"),
        (("window",), "missing option '--real'"),
    ],
)  # fmt: skip
def test_says_in_one_sentence_what_is_wrong(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    for name in ("window", "real"):
        (tmp_path / name).symlink_to(videos / name)
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "one", {"a.mp4": drifting(0)})
    (tmp_path / "text").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "text" / name).write_text("no video")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    monkeypatch.chdir(tmp_path)
    assert message in refused(tmp_path / "out", *arguments)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("window", "it lies in a folder of videos"),
        ("window/report", "it lies in a folder of videos"),
        ("real/report", "it lies in a folder of videos"),
        ("file", "file is a file, not a folder; choose another place with -o"),
        ("file/report", "file is a file, not a folder; choose another place with -o"),
        ("parent", "the report may write into"),
    ],
)
def test_an_output_that_cannot_be_is_refused(
    videos: Path, tmp_path: Path, out: str, message: str
) -> None:
    (tmp_path / "parent").mkdir()
    for name, target in (("window", "window"), ("real", "real"), ("parent/videos", "window")):
        (tmp_path / name).symlink_to(videos / target)
    (tmp_path / "file").write_text("x")
    generated = tmp_path / "parent" / "videos" if out == "parent" else tmp_path / "window"
    assert message in refused(tmp_path / out, generated, "--real", tmp_path / "real")


def test_black_videos_are_marked_counted_and_told(videos: Path, tmp_path: Path) -> None:
    result = run(videos / "black", "--real", videos / "black", "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "Generated videos of a single colour" in result.stderr
    assert "3 of 3 show nothing (cat.mp4, fox.mp4, owl.mp4)" in result.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["num_blank"] == 3 and metrics["independent_frechet"] == 0
    assert "independent_precision" not in metrics  # equal samples have no neighbourhood
    page = (tmp_path / "out" / "report.html").read_text()
    assert "show nothing" in page and "none has a neighbourhood" in page


def test_damaged_files_are_left_out_named_and_counted(videos: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    noise = np.random.default_rng(0).integers(0, 256, (8, 48, 48, 3), dtype=np.uint8)
    good = {path.name: path.read_bytes() for path in (videos / "window").iterdir()}
    write_folder(theirs, {"cut.mp4": noise, "hole.mp4": noise})
    for name, content in good.items():
        (theirs / name).write_bytes(content)
    whole = (theirs / "cut.mp4").read_bytes()
    middle = len(whole) // 2
    (theirs / "cut.mp4").write_bytes(whole[:middle])
    (theirs / "hole.mp4").write_bytes(whole[:middle] + bytes(2000) + whole[middle + 2000 :])
    (theirs / "text.mp4").write_text("no video")
    result = run(theirs, "--real", videos / "real", "-o", tmp_path / "out")
    assert result.exit_code == 0
    for name in ("cut.mp4: damaged", "hole.mp4: damaged", "text.mp4: cannot be opened"):
        assert f"left out: {theirs / name}" in result.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["num_unreadable"] == 3 and metrics["num_generated"] == 3
    assert "hole.mp4" in (tmp_path / "out" / "report.html").read_text()


def test_a_full_disk_is_one_sentence_and_leaves_the_old_report(
    videos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    evaluated(out, videos / "window", "--real", videos / "real")
    (out / "report.html").write_text("old")
    with full_disk():
        words = videos / "window", "--real", videos / "real", "--cache", "none"
        line = refused(out, *words)
    assert "out: cannot be written (File too large); make room" in line
    assert (out / "report.html").read_text() == "old"


def test_ctrl_c_writes_no_report_and_keeps_the_features(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    original = folders.compare

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)  # ends as Ctrl-C does
        return original(*arguments)

    monkeypatch.setattr(folders, "compare", interrupted)
    options = videos / "window", "--real", videos / "real", "--cache", tmp_path / "cache", "-o", out
    result = run(*options)
    assert result.exit_code == 130 and not out.exists()
    assert result.stderr.splitlines()[-1].startswith("stopped; no report was written")
    kept = len(names_in(tmp_path / "cache"))
    assert kept == 9  # a video, or a window of it, each
    monkeypatch.setattr(folders, "compare", original)
    assert run(*options).exit_code == 0 and len(names_in(tmp_path / "cache")) == kept

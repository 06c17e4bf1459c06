"""Windows and the folders they lie in."""

from __future__ import annotations

import itertools
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from lumiere.config import load_params
from lumiere.curation.measurement import measure_video
from lumiere.data import extract, prepare
from lumiere.data.extract import extract_windows, load_windows
from lumiere.data.window_choice import (
    Source,
    WindowSettings,
    choose_windows,
    least_motion,
    window_matches,
)
from lumiere.errors import LockError
from lumiere.files import content_hash
from tests.video_factory import encode, numbered

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = WindowSettings(fps=16, num_frames=16, size=32, clips_per_video=1)
NO_CAPTIONS = {"": (np.zeros((2, 2), np.float16), np.ones(2, np.uint8))}
HOLDER = """
import sys, time
from pathlib import Path
from lumiere.locks import own_folder
own_folder(Path(sys.argv[1]), 'another decoding')
print("here", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("folder", ["scratch", "clips"])
def test_a_second_decoding_is_refused_until_the_first_is_gone(tmp_path, folder):
    def decode() -> None:
        files, failures = prepare.cut_all([], tmp_path, SETTINGS, 1, 20.0, tmp_path / "scratch")
        prepare.write_clips(tmp_path / "clips", [], files, failures, NO_CAPTIONS, SETTINGS, 3)

    command = [sys.executable, "-c", HOLDER, str(tmp_path / folder)]
    other = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None and other.stdout.readline()
        with pytest.raises(LockError, match=f"{folder}: another decoding is running"):
            decode()
    finally:
        other.kill()
        other.wait()
    decode()
    decode()  # the same process may go on


class Letters:
    """Embeds a sentence by its letters, and notes the batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def encode(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        self.batches.append(texts)
        codes = torch.tensor([[[len(text), sum(text.encode())]] * 3 for text in texts])
        return codes.float(), torch.ones(len(texts), 3)


def test_captions_are_embedded_once_and_lie_on_the_disk(tmp_path):
    captions = [f"caption {i % 70}" for i in range(200)]
    encoder = Letters()
    found = prepare.embed_captions([*captions, ""], encoder, tmp_path)
    assert [len(batch) for batch in encoder.batches] == [64, 7]
    assert [*itertools.chain(*encoder.batches)] == sorted({*captions, ""}) == list(found)
    for text in found:
        embeds, mask = found[text]
        assert embeds.dtype == np.float16 and mask.dtype == np.uint8
        assert embeds.tolist() == [[len(text), sum(text.encode())]] * 3 and mask.tolist() == [1] * 3
    assert isinstance(found[""][0].base.base, np.memmap) or isinstance(found[""][0].base, np.memmap)
    assert list(tmp_path.iterdir()) == []  # the file has no name


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("kept_renames", [0, 1])
def test_a_run_killed_while_it_replaces_clips_loses_none(tmp_path, monkeypatch, kept_renames):
    def decode() -> None:
        prepare.write_clips(tmp_path / "clips", [], {}, {}, NO_CAPTIONS, SETTINGS, 3)

    decode()
    (tmp_path / "clips/mark").write_text("older")
    rename, renamed = Path.rename, []

    def killed(self: Path, target: Path) -> Path:
        if len(renamed) == kept_renames:
            raise Killed
        renamed.append(target)
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(Killed):
            decode()
    places = [path.parent for path in tmp_path.rglob("mark")]
    assert len(places) == 1 and (tmp_path / ".clips.tmp/index.json").is_file()

    def killed_early(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_shards", killed_early)
        with pytest.raises(Killed):
            decode()
    assert (tmp_path / "clips/mark").read_text() == "older"  # it is back
    decode()
    assert [path.name for path in sorted(tmp_path.iterdir()) if path.is_dir()] == ["clips"]
    assert not (tmp_path / "clips/mark").exists()


def test_changed_code_cuts_again(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4", numbered(20))
    source = Source(path, content_hash(path), 0.0, 1.25, "pyav")
    first = extract_windows(source, SETTINGS, tmp_path / "scratch")
    assert extract_windows(source, SETTINGS, tmp_path / "scratch") == first
    assert set(extract.CODE) > {
        "lumiere.data.extract",
        "lumiere.data.shards",
        "lumiere.data.video_io",
        "av",
    }
    monkeypatch.setitem(extract.CODE, "lumiere.data.video_io", "another")
    assert extract_windows(source, SETTINGS, tmp_path / "scratch") != first


def drive_by(path: Path, noise: float = 3, shake: int = 0, has_car: bool = True) -> Path:
    """Noisy asphalt, filmed by hand; something crosses it from frame 50 to 78 of 128."""
    generator = np.random.default_rng(0)
    road = generator.integers(90, 110, (16, 24, 3)).repeat(4, axis=0).repeat(4, axis=1)
    moves = generator.integers(-shake, shake + 1, 128)
    frames = np.stack([np.roll(road, move, axis=1) for move in moves])
    frames = frames + generator.normal(0, noise, frames.shape)
    for i in range(50, 78 if has_car else 50):
        frames[i, 20:44, max(0, (i - 56) * 5) : max(0, (i - 50) * 5)] = (240, 230, 60)
    return encode(path, frames.clip(0, 255).astype(np.uint8))


def chosen_starts(path: Path, settings: WindowSettings) -> list[int]:
    """The first frames of the windows of a file."""
    scratch = path.parent / "scratch"
    measured = measure_video(path.parent, path.name, (), 27.0, scratch)
    (segment,) = measured.segments
    source = Source(path, measured.sha256, segment.start, segment.end, "pyav", segment.motion_curve)
    windows = load_windows(extract_windows(source, settings, scratch))
    return [round(start * 16) for start in windows.starts]


@pytest.mark.parametrize(("noise", "shake"), [(0, 0), (3, 0), (6, 0), (3, 1)])
def test_windows_are_where_something_moves(tmp_path, noise, shake):
    path = drive_by(tmp_path / "a.mp4", noise, shake)
    for count in (2, 4):
        for share in (load_params(ROOT / "params.yaml").decode.min_window_motion, 0.1):
            settings = WindowSettings(16, 16, 32, count, share)
            starts = chosen_starts(path, settings)
            assert starts, "at least one window"
            assert all(start < 78 and start + 16 > 50 for start in starts), "bare asphalt"
            assert all(after - before >= 16 for before, after in itertools.pairwise(starts))
    assert chosen_starts(path, WindowSettings(16, 16, 32, 2, 0.0)) == [0, 112]


@pytest.mark.parametrize(("noise", "shake"), [(6, 0), (3, 1)])
def test_where_only_noise_moves_windows_are_evenly_spread(tmp_path, noise, shake):
    path = drive_by(tmp_path / "a.mp4", noise, shake, has_car=False)
    assert chosen_starts(path, WindowSettings(16, 16, 32, 4, 0.03)) == [0, 37, 75, 112]


def test_noise_is_what_many_windows_share_far_below_the_others():
    generator = np.random.default_rng(0)
    noise = 0.3 + generator.normal(0, 0.01, 113)
    assert least_motion(noise, 16, 0.03) == pytest.approx(0.03 * noise.max()), "noise alone"
    lively = noise + 3 * np.exp(-(((np.arange(113) - 60) / 12) ** 2))
    assert 0.5 < least_motion(lively, 16, 0.03) < 0.7
    assert least_motion(lively, 16, 0.9) > 0.9 * 3
    assert least_motion(lively, 16, 0.0) == 0.0
    faster = np.linspace(1, 3, 113)
    assert least_motion(faster, 16, 0.03) == pytest.approx(0.09), "a subject at all times"


def test_lively_windows_stay_evenly_spread_and_others_overlap_none():
    motions = np.ones(85)
    assert choose_windows([0, 84], 16, motions, 0.1) == [0, 84]
    motions[60:] = 0.01
    first, second = choose_windows([0, 84], 16, motions, 0.1)
    assert first == 0 and 16 <= second < 60
    motions[:] = 0
    motions[40] = 1
    assert choose_windows([0, 84], 16, motions, 0.1) == [40]
    assert choose_windows([0, 84], 16, np.empty(0), 0.1) == [0, 84]


def test_windows_that_fit_the_caption_replace_lively_ones_that_do_not():
    motions = np.ones(85)
    matches = np.full(85, 0.2)
    matches[30:50] = 0.3
    assert choose_windows([0, 84], 16, motions, 0.1, matches, 0.05) == [30, 46]
    assert choose_windows([0, 84], 16, motions, 0.1, matches, 0.2) == [0, 84]
    motions[30:50] = 0.01  # where nothing moves, a caption of motion does not fit either
    assert choose_windows([0, 84], 16, motions, 0.1, matches, 0.05) == [0, 84]


def test_the_match_of_a_window_is_the_mean_over_its_frames():
    settings = WindowSettings(16, 16, 32, 1)
    source = Source(Path(), "", Fraction(3), Fraction(7), "pyav", match_curve=(0.1, 0.1, 0.3, 0.3))
    matches = window_matches(source, 64, settings)
    assert len(matches) == 49
    assert matches[0] == pytest.approx(0.1) and matches[-1] == pytest.approx(0.3)
    assert matches[24] == pytest.approx(0.2), "half of its frames before the middle, half after it"
    assert not len(window_matches(source, 15, settings))

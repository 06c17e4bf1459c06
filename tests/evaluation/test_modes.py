"""Scores of image to video, kept pixels and styles: zero for perfect videos, and worse with each step away."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lumiere.errors import DataError
from lumiere.evaluation import mode_scores
from lumiere.evaluation.clip_sets import RealClips, match_clips
from lumiere.evaluation.measure_videos import Networks
from lumiere.evaluation.scores import flat
from lumiere.sample_files import ClipSet, Sample, SetEntry, read_set, write_set
from tests.evaluation.small_videos import Patches, drifting, write_clips

T = 8
NAMES = ["fox", "cat", "owl"]


@pytest.fixture
def networks() -> Networks:
    backbone: Any = Patches()
    return Networks(backbone)


@pytest.fixture
def real(tmp_path: Path) -> RealClips:
    """Two windows of each of three videos in which nothing moves."""
    clips = [
        (f"{name}@{which}", drifting(index, 1, 32, 32).repeat(T, axis=0), [f"a {name}"])
        for index, name in enumerate(NAMES)
        for which in (0, 1)
    ]
    write_clips(tmp_path / "clips", clips, 2)
    return RealClips(tmp_path / "clips", T)


def clip_set(folder: Path, name: str, clips: list[tuple[SetEntry, np.ndarray]]) -> ClipSet:
    write_set(folder, name, clips)
    return read_set(folder, name)


def entry(name: str, **changes: Any) -> SetEntry:
    values: dict[str, Any] = {"clip_id": f"{name}@0", "subject": name, "seed": 0, **changes}
    return SetEntry(f"a {name}", "image_to_video", fps=16, **values)


def test_real_clips_drift_as_their_floor_and_darkening_ones_more(
    tmp_path: Path, real: RealClips, networks: Networks
) -> None:
    def drift(fade: float) -> dict[str, float]:
        light = np.linspace(1, 1 - fade, T)[:, None, None, None]
        clips = [
            (entry(name), (real.frames(f"{name}@0") * light).astype(np.uint8)) for name in NAMES[:2]
        ]
        found = mode_scores.image_to_video(
            clip_set(tmp_path, "image_to_video", clips), real, networks
        )
        assert [curve.key for curve in found.curves] == ["drift", "drift_identity"]
        assert all(len(line) == T for curve in found.curves for line in curve.series.values())
        return flat(found.scores)

    values = [drift(fade) for fade in (0, 0.1, 0.3, 0.9)]
    for key in ("image_colour_drift", "image_identity_drift"):
        assert values[0][key] == pytest.approx(values[0][f"{key}_floor"], abs=1e-6)
        assert values[0][key] == pytest.approx(0, abs=1e-6)
    colours = [value["image_colour_drift"] for value in values]
    assert colours == sorted(colours) and colours[1] > 1 and colours[3] > 20  # CIE ΔE


def test_identity_drifts_over_the_frames_that_were_measured(
    tmp_path: Path, networks: Networks
) -> None:
    length = 31  # more than are embedded
    clips = [(f"{name}@0", drifting(k, length), [name]) for k, name in enumerate(NAMES)]
    write_clips(tmp_path / "clips", clips, 1)
    made = [(entry(name), drifting(k, length)) for k, name in enumerate(NAMES)]
    found = mode_scores.image_to_video(
        clip_set(tmp_path, "image_to_video", made), RealClips(tmp_path / "clips", length), networks
    )
    colour, identity = found.curves
    assert colour.x is not None and colour.x.tolist() == list(range(length))
    assert identity.x is not None and identity.x.tolist() == list(range(0, length, 2))
    assert len(identity.series["generated"]) == 16


def test_clips_of_differing_lengths_have_no_mean_drift(
    tmp_path: Path, real: RealClips, networks: Networks
) -> None:
    made = [
        (entry(name), real.frames(f"{name}@0")[:length])
        for name, length in (("fox", 8), ("cat", 6))
    ]
    with pytest.raises(DataError, match="clips of 6 to 8 frames"):
        mode_scores.image_to_video(clip_set(tmp_path, "image_to_video", made), real, networks)


def test_image_to_video_names_a_clip_that_is_gone(
    tmp_path: Path, real: RealClips, networks: Networks
) -> None:
    made = entry("fox", clip_id="gone@0")
    clips = clip_set(tmp_path, "image_to_video", [(made, real.frames("fox@0"))])
    with pytest.raises(DataError, match=r"no clip gone@0.*; run the generate stage again"):
        mode_scores.image_to_video(clips, real, networks)


def test_one_video_has_no_drift_scores(tmp_path: Path, real: RealClips, networks: Networks) -> None:
    clips = clip_set(tmp_path, "image_to_video", [(entry("fox"), real.frames("fox@0"))])
    found = mode_scores.image_to_video(clips, real, networks)
    assert not found.scores and found.left_out[0].why == "there is 1 clip; at least 2 are needed."


def sample(error: int, mode: str = "inpainting") -> Sample:
    known = np.full((2, 4, 4, 3), 100, np.uint8)
    made, mask = known.copy(), np.zeros((2, 4, 4), np.uint8)
    mask[:, :2] = 1
    made[:, 2:] = 0  # not known
    made[0, 0, 0, 0] += error
    arrays = {"generated": made, "known": known, "known_mask": mask}
    return Sample({"name": f"{mode} {error}", "mode": mode}, made, arrays)


def test_kept_pixels_tell_the_mean_and_the_worst() -> None:
    plain = Sample({"name": "t", "mode": "text_to_video"}, np.zeros((1, 1, 1, 3), np.uint8))
    values = flat(
        mode_scores.kept_pixels([plain, sample(0), sample(7), sample(0, "outpainting")]).scores
    )
    psnr = 10 * np.log10(255**2 / (49 / (2 * 2 * 4 * 3)))
    assert values == {
        "known_psnr_inpainting": pytest.approx((99 + psnr) / 2),
        "known_worst_error_inpainting": 7,
        "known_psnr_outpainting": 99,
        "known_worst_error_outpainting": 0,
    }


def test_kept_pixels_of_arrays_that_do_not_fit_name_the_file() -> None:
    broken = sample(0)
    assert broken.known is not None
    broken.known["known_mask"] = np.ones((1, 4, 4), np.uint8)
    with pytest.raises(DataError, match=r"inpainting 0\.known\.npz: .*; run the generate stage"):
        mode_scores.kept_pixels([broken])


def test_a_style_comes_nearer_with_alpha_and_content_goes(
    tmp_path: Path, networks: Networks
) -> None:
    """The 'style' is another video's pictures, and α blends with it."""
    pictures, plain = drifting(9, 4, 32, 32), drifting(0, T, 32, 32)
    (tmp_path / "pictures" / "Line Art").mkdir(parents=True)
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "pictures" / "Line Art" / f"{index}.png")
    style = np.resize(pictures, plain.shape)
    clips = []
    for alpha in (0.0, 0.5, 1.0):
        frames = ((1 - alpha) * plain + alpha * style).astype(np.uint8)
        clips.append((entry("fox", style="Line Art", alpha=alpha), frames))
    found = mode_scores.styles(clip_set(tmp_path, "styles", clips), tmp_path / "pictures", networks)
    values = flat(found.scores)
    assert values["style_line_art_alpha_100_distance"] < values["style_line_art_alpha_000_distance"]
    content = [values[f"style_line_art_alpha_{alpha}_content"] for alpha in ("050", "100")]
    assert 1 > content[0] > content[1]
    assert [row.alpha for row in found.styles] == [0.0, 0.5, 1.0]
    assert found.styles[0].content_retention == pytest.approx(1)
    assert "style_line_art_alpha_000_content" not in values  # it is the video itself


class Watched(ClipSet):
    """A set of ten clips that counts how many are in memory at once."""

    def __init__(self, entries: list[SetEntry]) -> None:
        super().__init__(Path("watched.npz"), entries)
        self.alive: weakref.WeakSet[Any] = weakref.WeakSet()
        self.most = 0

    def __iter__(self) -> Iterator[tuple[SetEntry, np.ndarray]]:
        for index, made in enumerate(self.entries):
            frames = Frames((T, 24, 24, 3), np.uint8)
            frames[:] = drifting(index, T)
            self.alive.add(frames)
            self.most = max(self.most, len(self.alive))
            yield made, frames
            del frames


class Frames(np.ndarray):
    """An array that a weak set takes."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> Any:
        return self is other


def test_styled_clips_are_read_one_at_a_time(tmp_path: Path, networks: Networks) -> None:
    """Only the clips that the report shows stay, one for each weight."""
    (tmp_path / "ink").mkdir()
    for index, picture in enumerate(drifting(9, 4, 32, 32)):
        Image.fromarray(picture).save(tmp_path / "ink" / f"{index}.png")
    clips = Watched(
        [entry("fox", style="ink", alpha=a, seed=seed) for a in (0.0, 1.0) for seed in range(10)]
    )
    found = mode_scores.styles(clips, tmp_path, networks)
    assert len(found.styles) == 2 and found.scores[0].num_videos == 10
    assert clips.most <= 2 + 2  # those shown, the current one and the one before it


def test_weights_that_share_a_metric_are_refused(tmp_path: Path) -> None:
    made = [entry("fox", style="ink", alpha=alpha) for alpha in (0.501, 0.502)]
    with pytest.raises(DataError, match=r"0.501 and 'ink' at α = 0.502 would share .*alpha_050"):
        mode_scores.check_styles(ClipSet(tmp_path / "styles.npz", made), tmp_path)


def test_pictures_of_a_style_are_needed(tmp_path: Path) -> None:
    made = entry("fox", style="ink", alpha=1.0)
    clips = clip_set(tmp_path, "styles", [(made, drifting(0))])
    with pytest.raises(DataError, match=r"ink: 0 pictures; .* needs at least 2"):
        mode_scores.check_styles(clips, tmp_path)


def test_clips_are_matched_with_the_window_they_were_made_from(
    tmp_path: Path, real: RealClips
) -> None:
    made = [entry("cat", clip_id="cat@1"), entry("fox"), entry("fox", clip_id="fox@1")]
    frames = drifting(0, T, 16, 16)
    sets = match_clips(clip_set(tmp_path, "text_to_video", [(one, frames) for one in made]), real)
    assert real.subjects == ["cat", "fox", "owl"] and sets.partners == [0, 1]
    assert [sets.real[partner].name for partner in (0, 1)] == ["cat@1", "fox@0"]
    assert [sets.other_windows[partner]().name for partner in (0, 1)] == ["cat@0", "fox@1"]
    assert sets.size == (16, 16) and sets.real[0].frames.shape == (T, 16, 16, 3)
    assert [video.held_out for video in sets.real] == [False, False, True]

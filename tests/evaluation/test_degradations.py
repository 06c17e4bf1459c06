"""Degradations: each does what its name says, by the amount of its step, and nothing else."""

import numpy as np
import pytest

from lumiere.evaluation.study.degradations import (
    DEGRADATIONS,
    Touches,
    degrade_frames,
    degrade_set,
    is_flat,
)
from lumiere.evaluation.videos import Video

ON_FRAMES = [name for name, found in DEGRADATIONS.items() if found.frames is not None]
ON_SETS = [name for name, found in DEGRADATIONS.items() if found.sources is not None]


def moving(num_frames=16, size=32, seed=0):
    """A coloured disc that crosses a grey, flat background; every frame is another one."""
    rows, columns = np.mgrid[:size, :size]
    colour = np.random.default_rng(seed).integers(60, 200, 3)
    frames = np.full((num_frames, size, size, 3), 128, np.uint8)
    for k in range(num_frames):
        inside = (rows - size / 2) ** 2 + (columns - 6 - k) ** 2 < 36
        frames[k][inside] = colour
    return frames


def textured():
    """A video without flat areas: waves of several lengths that move."""
    rows, columns = np.mgrid[:32, :32] / 32
    frames = []
    for k in range(16):
        waves = [np.sin(9 * columns + 5 * rows + k / 3), np.cos(25 * rows - k / 5), columns * rows]
        frames.append(128 + 80 * np.stack(waves, axis=-1))
    return np.stack(frames).round().astype(np.uint8)


def spoil(name, amount, frames, **options):
    return degrade_frames(DEGRADATIONS[name], amount, frames, **options)


def difference(name, amount, frames):
    spoilt = spoil(name, amount, frames)
    return np.abs(spoilt.astype(float) - frames).mean()


def videos(count, first=0):
    return [
        Video(f"v{i}", moving(seed=i), 16.0, f"caption {i}", subject=f"s{i}")
        for i in range(first, first + count)
    ]


@pytest.mark.parametrize("name", ON_FRAMES)
def test_frames_keep_their_form_and_equal_seeds_give_equal_bytes(name):
    frames = textured()
    original = frames.copy()
    for step in DEGRADATIONS[name].steps:
        spoilt = spoil(name, step.amount, frames, seed=3)
        assert spoilt.shape == frames.shape and spoilt.dtype == np.uint8
        assert (spoilt != frames).any()
        assert np.array_equal(spoilt, spoil(name, step.amount, frames, seed=3))
    assert np.array_equal(frames, original)


@pytest.mark.parametrize("name", [name for name in ON_FRAMES if name not in ("hue", "shuffled")])
def test_later_steps_change_more(name):
    found = [difference(name, step.amount, textured()) for step in DEGRADATIONS[name].steps]
    assert found == sorted(found) and len(set(found)) == len(found)


def test_random_degradations_differ_between_videos_and_seeds():
    frames = moving()
    assert (spoil("noise", 5, frames, index=0) != spoil("noise", 5, frames, index=1)).any()
    assert (spoil("noise", 5, frames, seed=0) != spoil("noise", 5, frames, seed=1)).any()


@pytest.mark.parametrize("step", DEGRADATIONS["noise"].steps)
def test_noise_has_the_deviation_of_its_step(step):
    grey = np.full((4, 64, 64, 3), 128, np.uint8)
    noise = spoil("noise", step.amount, grey).astype(float) - 128
    assert noise.std() == pytest.approx(step.amount, rel=0.03)
    assert abs(noise.mean()) < 0.03 * step.amount
    assert np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1] == pytest.approx(0, abs=0.05)


def test_speckle_leaves_the_edges_alone():
    frames = moving()
    spoilt = spoil("speckle", 10, frames)
    for frame, speckled in zip(frames, spoilt, strict=True):
        flat = is_flat(frame)
        assert 0.5 < flat.mean() < 1
        assert np.array_equal(frame[~flat], speckled[~flat])
        assert speckled[flat].astype(float).std() > 8


def test_blur_and_jpeg_keep_the_mean():
    frames = moving()
    for name, amount in (("blur", 2), ("jpeg", 75)):
        assert spoil(name, amount, frames).mean() == pytest.approx(frames.mean(), abs=1)


def test_torn_frames_hold_the_same_pixels_in_other_places():
    still = np.repeat(moving()[:1], 4, axis=0)
    torn = spoil("torn", 16, still)
    assert (torn == torn[0]).all()  # the same tear in all frames
    assert np.array_equal(np.sort(torn[0], axis=None), np.sort(still[0], axis=None))
    one_colour_each = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1).repeat(3, -1)
    tiles = one_colour_each.repeat(4, 1).repeat(4, 2)
    assert (spoil("torn", 16, tiles) != tiles).mean() == pytest.approx(16 / 64)


def test_bent_shapes_stay_bent_and_boiling_ones_do_not():
    still = np.repeat(moving()[:1], 4, axis=0)
    melted, boiling, drift = (spoil(name, 2, still) for name in ("melted", "boiling", "drift"))
    assert (melted == melted[0]).all()
    assert (boiling[0] != boiling[1]).any()
    changes = [np.abs(frame.astype(float) - still[0]).mean() for frame in drift]
    assert changes[0] == 0 and changes == sorted(changes)


def test_lengths_grow_with_the_frames():
    small, large = moving(1, 32), moving(1, 32).repeat(2, 1).repeat(2, 2)
    blurred = spoil("blur", 1, large)[:, ::2, ::2].astype(float)
    assert np.abs(blurred - spoil("blur", 1, small)).mean() < 1


def test_colours():
    frames = moving()
    assert np.array_equal(spoil("hue", 360, frames), spoil("hue", 0, frames))
    red = np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0] = 200
    assert np.array_equal(spoil("hue", 120, red)[0, 0, 0], [0, 200, 0])
    grey = spoil("pale", 1.0, frames)
    assert (grey == grey[..., :1]).all()
    cast = spoil("cast", 10, np.full((1, 8, 8, 3), 128, np.uint8)).astype(int) - 128
    assert np.abs(cast).max() == 10 and abs(cast[0, 0, 0].sum()) <= 1


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_shuffled_frames_are_the_same_frames(share):
    frames = moving()
    shuffled = spoil("shuffled", share, frames)
    assert sorted(f.tobytes() for f in shuffled) == sorted(f.tobytes() for f in frames)
    moved = sum((a != b).any() for a, b in zip(frames, shuffled, strict=True))
    assert moved == round(share * len(frames))


def test_frozen_stutter_and_reversed():
    frames = moving()
    still = spoil("frozen", 1.0, frames)
    assert (still == frames[0]).all()
    half = spoil("frozen", 0.5, frames)
    changes = sum((a != b).any() for a, b in zip(half[1:], half[:-1], strict=True))
    assert changes == 7  # of 15
    assert np.array_equal(spoil("stutter", 4, frames)[::4], frames[::4])
    assert len({f.tobytes() for f in spoil("stutter", 4, frames)}) == 4
    backwards = spoil("reversed", 1.0, frames)
    assert np.array_equal(backwards[0], frames[-1])
    assert np.array_equal(spoil("reversed", 1.0, backwards), frames)


def test_flicker_moves_all_pixels_of_a_frame_together():
    spoilt = spoil("flicker", 10, np.full((32, 8, 8, 3), 128, np.uint8))
    levels = spoilt.reshape(32, -1)
    assert (levels == levels[:, :1]).all()
    assert levels[:, 0].astype(float).std() == pytest.approx(10, rel=0.4)


def test_sets_keep_captions_and_subjects_in_their_places():
    mine, others = videos(8), videos(8, first=8)
    for name, degradation in DEGRADATIONS.items():
        spoilt = list(degrade_set(degradation, degradation.steps[-1].amount, mine, others))
        assert [v.caption for v in spoilt] == [v.caption for v in mine], name
        assert [v.subject for v in spoilt] == [v.subject for v in mine], name


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_swapped_captions_leave_the_set_of_videos_as_it_is(share):
    mine = videos(8)
    spoilt = list(degrade_set(DEGRADATIONS["swapped"], share, mine, videos(8, first=8)))
    assert sorted(v.frames.tobytes() for v in spoilt) == sorted(v.frames.tobytes() for v in mine)
    moved = sum((a.frames != b.frames).any() for a, b in zip(mine, spoilt, strict=True))
    assert moved == round(share * 8)


def test_another_subject_and_one_video_for_all():
    mine, others = videos(8), videos(8, first=8)
    foreign = {video.frames.tobytes() for video in others}
    half = degrade_set(DEGRADATIONS["other_subject"], 0.5, mine, others)
    assert sum(video.frames.tobytes() in foreign for video in half) == 4
    one = degrade_set(DEGRADATIONS["collapsed"], 1.0, mine, others)
    assert len({video.frames.tobytes() for video in one}) == 1


def test_steps_of_sets_are_nested():
    mine, others = videos(8), videos(8, first=8)
    for name in ON_SETS:
        degradation, kept = DEGRADATIONS[name], set(range(8))
        for step in degradation.steps:
            spoilt = degrade_set(degradation, step.amount, mine, others)
            same = {i for i in range(8) if np.array_equal(spoilt[i].frames, mine[i].frames)}
            assert same <= kept
            kept = same


def test_every_kind_of_harm_is_covered():
    touched = set().union(*(degradation.touches for degradation in DEGRADATIONS.values()))
    assert touched == set(Touches)


def test_wrong_input():
    with pytest.raises(ValueError, match="use degrade_set"):
        spoil("swapped", 1, moving())
    with pytest.raises(ValueError, match="uint8"):
        spoil("noise", 1, moving().astype(float))
    with pytest.raises(ValueError, match="RGB"):
        spoil("noise", 1, moving()[..., :1])
    with pytest.raises(ValueError, match="at least 8"):
        spoil("torn", 4, moving()[:, :4, :4])
    with pytest.raises(ValueError, match="as many others"):
        degrade_set(DEGRADATIONS["noise"], 1, videos(4), videos(3))

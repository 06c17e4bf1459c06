"""VBench's dimensions by their published definitions (arXiv 2311.17982)."""

import itertools

import cv2
import numpy as np
import pytest

from lumiere.evaluation.temporal.consistency import (
    aesthetic_quality,
    background_consistency,
    subject_consistency,
    temporal_flicker,
)
from lumiere.staleness import ROOT


def decode(path):
    reader, frames = cv2.VideoCapture(str(path)), []
    while True:
        decoded, frame = reader.read()
        if not decoded:
            return frames
        frames.append(frame)


@pytest.mark.parametrize("name", ["airplane", "beer"])
def test_flicker_of_a_public_file_is_vbenchs(name):
    frames = decode(ROOT / "data" / "raw" / f"{name}.mp4")
    assert len(frames) == 48
    errors = []
    for before, after in itertools.pairwise(frames):
        errors.append(np.mean(cv2.absdiff(before.astype(np.float32), after.astype(np.float32))))
    vbench = (255.0 - np.mean(errors)) / 255.0
    assert 0.9 < vbench < 1
    rgb = np.stack(frames)[..., ::-1]
    assert temporal_flicker(rgb) == pytest.approx(vbench, abs=1e-6)


def test_consistency_is_the_mean_of_first_and_previous():
    def at(*degrees):
        angles = np.radians(degrees)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    cosine = np.cos(np.radians(60))
    # Frame 1 is 60° from both; frame 2 is 120° from the first, cut off at 0, and 60° from frame 1.
    assert subject_consistency(at(0, 60, 120)) == pytest.approx((cosine + cosine / 2) / 2)
    assert subject_consistency(at(0, 180)) == 0
    assert subject_consistency(7 * at(30, 30, 30)) == pytest.approx(1)
    assert background_consistency(at(0, 60, 120)) == subject_consistency(at(0, 60, 120))


def test_consistency_falls_with_noise_and_does_not_see_scale():
    rng = np.random.default_rng(0)
    still = np.repeat(rng.normal(size=(1, 64)), 16, axis=0)
    scores = [subject_consistency(still + s * rng.normal(size=(16, 64))) for s in (0, 0.2, 0.5, 1)]
    assert scores == sorted(scores, reverse=True)
    features = rng.normal(size=(16, 64))
    scale = rng.uniform(1, 9, size=(16, 1))
    assert subject_consistency(scale * features) == pytest.approx(subject_consistency(features))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones((1, 4)), "at least 2"),
        (np.ones(4), "expected"),
        (np.zeros((3, 4)), "frame 0"),
        (np.array([[1.0, 0], [np.nan, 1]]), "frame 1"),
        (np.array([[1.0, 0], [np.inf, 1]]), "frame 1"),
    ],
)
def test_features_without_a_direction_are_refused(features, message):
    with pytest.raises(ValueError, match=message):
        subject_consistency(features)


def test_aesthetic_quality_is_the_head_on_normalised_features_over_ten():
    features = np.array([[3.0, 4.0], [0.0, 2.0]])
    weight, bias = np.array([[5.0, 10.0]]), 1.0
    expected = np.mean([5 * 0.6 + 10 * 0.8 + 1, 10 + 1]) / 10
    assert aesthetic_quality(features, weight, bias) == pytest.approx(expected)
    with pytest.raises(ValueError, match="ViT-L/14"):
        aesthetic_quality(features, np.ones((1, 3)), bias)
    with pytest.raises(ValueError, match="NaN"):
        aesthetic_quality(features, weight * np.nan, bias)

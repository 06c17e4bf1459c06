"""Style distance and content retention over blends: closed forms and monotony."""

from itertools import combinations

import cv2
import numpy as np
import pytest

from lumiere.data.captioned_pictures import load_captioned_folder
from lumiere.evaluation.style_scores import (
    content_retention,
    gram_distance,
    style_distance,
    style_statistics,
)
from lumiere.staleness import ROOT


def read(path):
    return cv2.imread(str(path))[..., ::-1]


@pytest.fixture(scope="module")
def styled():
    return [read(path) for path in sorted((ROOT / "data/styles/line-art").glob("*.png"))[:24]]


def colourful(picture):
    """The same drawing on a red-blue ramp, as far from line art as a photograph."""
    ramp = np.linspace(0, 255, picture.shape[1])[None, :, None] * np.array([1.0, 0.2, 0.0])
    ramp = ramp + np.array([0.0, 0.0, 120.0])
    return np.broadcast_to(ramp, picture.shape).round().astype(np.uint8)


def test_blends_come_nearer_to_the_style_as_alpha_grows(styled):
    reference = style_statistics(styled[::2])
    distances = []
    for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
        blends = []
        for picture in styled[1::2]:
            blend = alpha * picture + (1 - alpha) * colourful(picture)
            blends.append(blend.round().astype(np.uint8))
        distances.append(style_distance(style_statistics(blends), reference))
    for part in ("palette", "edges"):
        values = [getattr(distance, part) for distance in distances]
        assert values == sorted(values, reverse=True), part
        assert values[-1] < 0.2 * values[0]


def test_the_shipped_styles_differ_at_a_glance():
    """At 32 pixels, two styles lie much further apart than the halves of one."""
    halves = {}
    for listing in sorted((ROOT / "data/styles").glob("*/captions.csv")):
        pictures, _ = load_captioned_folder(listing.parent, 32)
        halves[listing.parent.name] = [style_statistics(pictures[i::2]) for i in (0, 1)]
    assert {"line-art", "neon", "sunset"} <= halves.keys()
    within = max(style_distance(*pair).palette for pair in halves.values())
    for (one, _), (other, _) in combinations(halves.values(), 2):
        assert style_distance(one, other).palette > 5 * within


def test_a_shift_of_lightness_is_its_delta_e():
    a, b = (np.full((8, 8, 3), level, np.uint8) for level in (100, 140))
    lab = [cv2.cvtColor(x.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0, 0, 0] for x in (a, b)]
    distance = style_distance(style_statistics([a]), style_statistics([b]))
    assert distance.palette == pytest.approx(lab[1] - lab[0], abs=0.05)
    assert distance.edges == 0


def test_a_ramp_has_its_slope():
    lightness = np.linspace(0, 100, 32, dtype=np.float32)
    lab = np.zeros((32, 32, 3), np.float32)
    lab[..., 0] = lightness
    ramp = (255 * cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)).round().astype(np.uint8)
    assert np.median(style_statistics([ramp]).edges) == pytest.approx(100 / 31, rel=0.03)


def test_gram_distance_does_not_see_places_but_channels():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(3, 5, 6, 7)) + 1
    flipped = maps[::-1, :, ::-1, ::-1]
    assert gram_distance(maps, flipped) == pytest.approx(0, abs=1e-12)
    assert gram_distance(maps, 2 * maps) == pytest.approx(1.5)  # |1 − 4| / √(1 · 4)
    mixed = [gram_distance(maps, maps + s * rng.normal(size=maps.shape)) for s in (0, 1, 2, 4)]
    assert mixed == sorted(mixed) and mixed[0] == 0


def test_content_retention_is_the_mean_cosine():
    features = np.eye(4)
    assert content_retention(features, 3 * features) == pytest.approx(1)
    assert content_retention(features, features[::-1]) == 0
    rotated = features.copy()
    rotated[0] = [1, 1, 0, 0]
    assert content_retention(rotated, features) == pytest.approx((3 + np.sqrt(0.5)) / 4)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="no picture"):
        style_statistics([])
    with pytest.raises(ValueError, match="uint8"):
        style_statistics([np.zeros((8, 8, 3))])
    with pytest.raises(ValueError, match="channels"):
        style_statistics([np.zeros((8, 8, 1), np.uint8)])
    with pytest.raises(ValueError, match="channels"):
        gram_distance(np.ones((1, 2, 3, 3)), np.ones((1, 3, 3, 3)))
    with pytest.raises(ValueError, match="zero"):
        gram_distance(np.zeros((1, 2, 3, 3)), np.ones((1, 2, 3, 3)))
    with pytest.raises(ValueError, match="shape"):
        content_retention(np.eye(3), np.ones((2, 3)))

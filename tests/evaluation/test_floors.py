"""Distances of sets of videos: which videos are compared, floors, intervals, bad input."""

import numpy as np
import pytest

from lumiere.evaluation.distances import set_distances
from lumiere.evaluation.distances.feature_sets import FeatureSet
from lumiere.evaluation.distances.floors import distances
from lumiere.evaluation.distances.frechet import frechet_distance
from lumiere.evaluation.distances.kernel import jedi_distance, kernel_distance
from lumiere.evaluation.distances.pairings import make_design
from lumiere.evaluation.scores import flat

DIMENSIONS = 40
FRAMES = 4


def make_sets(num_generated=8, num_real=20, error=0.0, named=True, seed=0):
    """Subjects are points; a window of a subject lies near its point, and its frames near that."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num_real, DIMENSIONS))

    def video(centre, extra=0.0):
        window = centre + 0.1 * rng.normal(size=DIMENSIONS)
        window += extra * (1 + rng.normal(size=DIMENSIONS))  # an error moves all videos one way
        return window + 0.05 * rng.normal(size=(FRAMES, DIMENSIONS))

    names = [f"subject {i}" for i in range(num_real)]
    features = [video(centre) for centre in centres] + [video(centre) for centre in centres]
    real = FeatureSet(features, names * 2, [0] * num_real + [1] * num_real)
    made = [video(centre, error) for centre in centres[:num_generated]]
    subjects = names[:num_generated] if named else [""] * num_generated
    return FeatureSet(made, subjects), real


def by_key(scores):
    return {score.key: score for score in scores}


def stack(feature_set, indices):
    return np.concatenate([feature_set.features[i] for i in indices])


def test_matched_distances_are_those_of_the_same_subjects():
    generated, real = make_sets()
    scores, left_out = distances(generated, real, kernel="kid")
    found = by_key(scores)
    frames, window_a = stack(generated, range(8)), stack(real, range(8))
    window_b = stack(real, range(20, 28))
    frechet, kernel = found["independent_frechet"], found["independent_kernel"]
    assert frechet.value == pytest.approx(frechet_distance(frames, window_a))
    assert frechet.floor.value == pytest.approx(frechet_distance(window_b, window_a))
    assert kernel.value == pytest.approx(kernel_distance(frames, window_a))
    assert kernel.floor.value == pytest.approx(kernel_distance(window_b, window_a))
    assert frechet.other_floor.value > 2 * frechet.floor.value
    assert {score.num_videos for score in scores} == {8}
    assert left_out == []
    flat(scores)  # every number is finite


def test_jedi_is_the_published_form():
    generated, real = make_sets()
    scores, _ = distances(generated, real, measures=["kernel"], kernel="jedi", kernel_key="jedi")
    expected = jedi_distance(stack(generated, range(8)), stack(real, range(8)))
    assert by_key(scores)["jedi"].value == pytest.approx(expected)


def test_real_videos_in_place_of_generated_ones_score_the_floor_and_errors_show():
    generated, real = make_sets(num_generated=16, num_real=40)
    good = by_key(distances(generated, real)[0])
    torn = by_key(distances(*make_sets(num_generated=16, num_real=40, error=0.6))[0])
    for key in ("independent_frechet", "independent_kernel"):
        low, high = good[key].interval.low, good[key].interval.high
        assert low <= good[key].value <= high
        assert torn[key].outside_floor() is True
    near, floor = good["independent_frechet"], good["independent_frechet"].floor
    assert near.value == pytest.approx(floor.value, rel=0.15)


def test_kernel_distance_over_videos_is_unbiased_and_the_frames_form_is_not():
    """Sets of independent videos of one distribution: 0 on average."""
    values = {"videos": [], "kid": []}
    for seed in range(40):
        real = make_sets(6, 12, named=False, seed=seed)[1]
        other, _ = make_sets(6, 12, named=False, seed=seed + 1000)
        for kind, found in values.items():
            score = distances(other, real, measures=["kernel"], kernel=kind)[0][0]
            found.append(score.value)
    errors = {kind: np.std(found) / np.sqrt(40) for kind, found in values.items()}
    assert np.mean(values["videos"]) == pytest.approx(0, abs=4 * errors["videos"])
    assert np.mean(values["kid"]) > 4 * errors["kid"]


def test_unmatched_reference_is_all_real_videos():
    generated, real = make_sets(named=False)
    scores, _ = distances(generated, real, measures=["frechet"])
    expected = frechet_distance(stack(generated, range(8)), stack(real, range(20)))
    assert scores[0].value == pytest.approx(expected)
    assert scores[0].floor.value < scores[0].other_floor.value
    design = make_design(generated, real)
    assert not design.matched and design.num_reference == 20
    for pairing in design.other:
        assert len(pairing.compared.units) == 8
        assert not set(pairing.compared.units) & set(pairing.reference.units)
    for pairing in design.floor:
        assert (pairing.compared.videos >= 8 + 20).all()  # other times, after the generated videos


def test_more_generated_than_real_videos_are_drawn_at_the_same_number():
    generated, real = make_sets(num_generated=8, num_real=20, named=False)
    few = FeatureSet(
        [*real.features[:5], *real.features[20:25]], [*real.subjects[:5]] * 2, [0] * 5 + [1] * 5
    )
    scores, _ = distances(generated, few, measures=["frechet"])
    assert scores[0].num_videos == 5
    assert scores[0].floor is not None
    assert scores[0].other_floor is None and "other-subject floor" in scores[0].note


def test_partly_matched_sets_say_what_is_left_out():
    generated, real = make_sets()
    subjects = [*generated.subjects[:6], "unknown", generated.subjects[0]]
    design = make_design(FeatureSet(generated.features, subjects), real)
    assert design.matched and design.num_videos == 6
    assert design.remarks[0].startswith("2 generated videos left out")
    # Without another window there is no floor of the same subjects.
    only_a = FeatureSet(real.features[:20], real.subjects[:20])
    scores, _ = distances(generated, only_a, measures=["frechet"])
    assert scores[0].floor is None and "No same-subject floor" in scores[0].note
    assert scores[0].other_floor is not None


def test_equal_seeds_give_equal_scores():
    generated, real = make_sets()
    assert distances(generated, real, seed=3) == distances(generated, real, seed=3)


def test_order_of_videos_does_not_matter():
    generated, real = make_sets()
    turned = FeatureSet(generated.features[::-1], generated.subjects[::-1])
    before, after = distances(generated, real)[0], distances(turned, real)[0]
    for one, other in zip(before, after, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-6, abs=1e-9)
        assert one.interval.high == pytest.approx(other.interval.high, rel=1e-6, abs=1e-9)


def test_two_videos_give_a_value_without_an_interval():
    generated, real = make_sets(num_generated=2, num_real=4)
    scores, _ = distances(generated, real)
    frechet = by_key(scores)["independent_frechet"]
    assert frechet.interval is None and frechet.floor.interval is None
    assert frechet.outside_floor() is None


def test_equal_videos_have_no_neighbourhoods_but_distances():
    _, real = make_sets()
    black = FeatureSet([np.zeros((FRAMES, DIMENSIONS))] * 8, [f"subject {i}" for i in range(8)])
    scores, left_out = distances(black, real)
    assert "independent_recall" not in by_key(scores)
    assert [item.name for item in left_out] == ["Recall"]
    assert by_key(scores)["independent_frechet"].outside_floor() is True


def test_refuses_bad_sets():
    generated, real = make_sets()
    with pytest.raises(ValueError, match="at least 2"):
        distances(FeatureSet(generated.features[:1], generated.subjects[:1]), real)
    with pytest.raises(ValueError, match="dimensions"):
        distances(FeatureSet([rows[:, :3] for rows in generated.features], [""] * 8), real)
    bad = [rows.copy() for rows in generated.features]
    bad[5][1, 2] = np.inf
    with pytest.raises(ValueError, match=r"video 5 \(subject 5\): features that are not finite"):
        FeatureSet(bad, generated.subjects)
    with pytest.raises(ValueError, match="one of each"):
        FeatureSet(generated.features, generated.subjects[:3])
    with pytest.raises(ValueError, match="unknown"):
        distances(generated, real, measures=["fvd"])


def test_neighbours_need_whole_videos_and_say_when_they_can_tell_nothing_more():
    generated, real = make_sets(num_generated=16, num_real=40)
    found = by_key(distances(generated, real, measures=["neighbours"])[0])
    precision = found["independent_precision"]
    assert precision.value == 1 and precision.saturated
    assert precision.interval.low < 0.9 and precision.floor.interval.low < 0.9
    assert "k = 3" in precision.note and "k = 5" in found["independent_density"].note
    crowd = FeatureSet([real.features[0] + 1e-3 * i for i in range(16)], generated.subjects)
    found = by_key(distances(crowd, real, measures=["neighbours"])[0])
    assert found["independent_coverage"].outside_floor() is True
    recall = found["independent_recall"]
    assert recall.value == 1 / 16 and not recall.saturated  # the real video they crowd around


def test_large_sets_take_another_way_to_the_same_value(monkeypatch):
    generated, real = make_sets()
    before = by_key(distances(generated, real, measures=["frechet", "kernel"])[0])
    monkeypatch.setattr(set_distances, "MAX_GRAM_ROWS", 0)
    monkeypatch.setattr(set_distances, "CHUNK_ROWS", 7)  # chunks that begin inside a video
    after = by_key(distances(generated, real, measures=["frechet", "kernel"])[0])
    for key, score in before.items():
        assert after[key].value == pytest.approx(score.value, rel=1e-9)
        assert after[key].interval.high == pytest.approx(score.interval.high, rel=1e-6)

"""Retrieval among all captions, similarity to the own real video, Inception Score."""

import numpy as np
import pytest

from lumiere.evaluation.alignment import caption_pool, caption_ranks, retrieval_scores
from lumiere.evaluation.distances.feature_sets import FeatureSet
from lumiere.evaluation.distances.inception import inception_score
from lumiere.evaluation.distances.paired import paired_score, paired_similarity
from lumiere.evaluation.scores import flat


def test_sentences_of_one_video_are_all_its_own():
    real = [["a cat sits", "a tabby cat rests"], ["a dog runs", "A dog  runs"], ["a boat"]]
    generated, own_real = caption_pool(["a tabby cat rests", "a red car"], real)
    assert generated.texts == [
        "a cat sits",
        "a tabby cat rests",
        "a dog runs",
        "a boat",
        "a red car",
    ]
    assert generated.own == [[0, 1], [4]]
    assert own_real.own == [[0, 1], [2], [3]]
    with pytest.raises(ValueError, match="at least 2"):
        caption_pool(["one"], [["One "]])


def test_the_best_own_caption_is_ranked_among_those_of_others():
    captions = np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, 0.8]])
    videos = np.array([[1.0, 0.1], [0.1, 1.0], [1.0, 0.0]])
    # Video 0: caption 0 is its own and nearest. Video 1: caption 2 and 0 are its own; 1 and 3 are
    # nearer. Video 2: 0 is another's caption, 2 the best of its own.
    ranks = caption_ranks(videos, captions, [[0, 2], [0, 2], [2, 1]])
    assert ranks.tolist() == [1, 3, 2]


def test_equal_embeddings_get_the_worst_rank():
    ranks = caption_ranks(np.ones((3, 4)), np.ones((5, 4)), [[0], [1], [2, 3]])
    assert ranks.tolist() == [5, 5, 4]


def test_retrieval_refuses_missing_captions():
    with pytest.raises(ValueError, match="own captions of 1"):
        caption_ranks(np.ones((2, 4)), np.ones((5, 4)), [[0]])
    with pytest.raises(ValueError, match="of its own"):
        caption_ranks(np.ones((1, 4)), np.ones((5, 4)), [[]])
    with pytest.raises(ValueError, match="ranks"):
        retrieval_scores(np.array([1, 9]), None, 5)


def test_scores_at_their_ceiling_are_saturated():
    perfect = {s.key: s for s in retrieval_scores(np.ones(24, int), np.ones(48, int), 500)}
    assert all(score.saturated for score in perfect.values())
    assert perfect["retrieval_r1"].interval.low < 0.9  # 24 of 24 are compatible with less
    ranks = np.array([1] * 8 + [3] * 8 + [40] * 8)
    good = {s.key: s for s in retrieval_scores(ranks, np.ones(48, int), 500)}
    assert good["retrieval_r1"].value == pytest.approx(1 / 3)
    assert good["retrieval_r5"].value == pytest.approx(2 / 3)
    assert good["retrieval_median_rank"].value == 3
    assert not any(score.saturated for score in good.values())
    # As good as real clips, which this judge does not rank first either.
    equal = {s.key: s for s in retrieval_scores(ranks, np.tile(ranks, 2), 500)}
    assert all(score.saturated for score in equal.values())
    assert flat(good.values())["retrieval_r1_floor"] == 1


def test_a_median_rank_of_real_videos_that_never_varies_gives_no_verdict():
    ranks = np.array([1] * 11 + [2] * 13)
    scores = {score.key: score for score in retrieval_scores(ranks, np.ones(48, int), 500)}
    median = scores["retrieval_median_rank"]
    assert median.value == 2 and median.floor.value == 1
    assert median.floor.interval is None and median.outside_floor() is None
    assert scores["retrieval_r1"].outside_floor() is True  # shares always have an interval


def test_windows_of_one_subject_count_as_one_in_the_median_rank():
    rng = np.random.default_rng(0)
    ranks, real = rng.integers(1, 60, 24), rng.integers(1, 60, 24)
    own_names = [f"s{i}" for i in range(24)]
    real_names = own_names * 2  # windows A, then windows B

    def median_rank(ranks, real, **names):
        scores = retrieval_scores(ranks, real, 100, **names)
        return next(score for score in scores if score.key == "retrieval_median_rank")

    once = median_rank(ranks, real, subjects=own_names, real_subjects=own_names)
    twice = median_rank(ranks, np.tile(real, 2), subjects=own_names, real_subjects=real_names)
    apart = median_rank(ranks, np.tile(real, 2), subjects=own_names)
    assert twice.floor == once.floor != apart.floor
    five_each = [name for name in own_names for _ in range(5)]
    often = median_rank(np.repeat(ranks, 5), real, subjects=five_each, real_subjects=own_names)
    assert often.interval == median_rank(ranks, real, subjects=own_names).interval
    assert often.floor == once.floor and often.num_videos == 120
    alone = median_rank(ranks, real, subjects=["s"] * 24, real_subjects=["s"] * 24)
    assert alone.interval is None and alone.floor.interval is None and alone.floor.value > 1


def test_paired_similarity_puts_the_worst_first():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 30))
    names = [f"s{i}" for i in range(6)]

    def video(centre, error):
        return centre + error * rng.normal(size=(4, 30))

    real = FeatureSet([video(c, 0.1) for c in [*centres, *centres]], names * 2, [0] * 6 + [1] * 6)
    errors = [0.1, 3.0, 0.2, 10.0]
    generated = FeatureSet(
        [*(video(centres[i], error) for i, error in enumerate(errors)), video(centres[0], 0.1)],
        [*names[:4], "unknown"],
    )
    pairs = paired_similarity(generated, real)
    assert pairs.worst_first().tolist() == [3, 1, 2, 0]
    assert pairs.floor == pytest.approx(np.ones(4), abs=0.01)
    assert (abs(pairs.others) < 0.5).all()
    score = paired_score(pairs, "independent_paired_similarity", "Similarity")
    assert score.num_videos == 4
    assert score.floor.value == pytest.approx(1, abs=0.01) and score.outside_floor() is True
    assert score.interval.low <= score.value <= score.interval.high
    with pytest.raises(ValueError, match="0 generated videos"):
        paired_similarity(FeatureSet(generated.features[:1], ["unknown"]), real)


def test_inception_score_equals_torch_fidelity():
    """Golden values of torch-fidelity 0.4.0, metric_isc.isc_features_to_metric of the logits."""
    rng = np.random.RandomState(12)
    rng.standard_normal(480)
    logits = rng.standard_normal((50, 7)) * 2
    weights = np.exp(logits)
    p = weights / weights.sum(1, keepdims=True)
    five, ten = inception_score(p, 5), inception_score(p, 10)
    assert (five.mean, five.std) == pytest.approx(
        (2.0928619156320054, 0.3161518179793296), abs=1e-6
    )
    assert (ten.mean, ten.std) == pytest.approx((1.8762071226078934, 0.2257125963996666), abs=1e-6)
    kept = inception_score(p, 3, shuffle_seed=None)
    assert (kept.mean, kept.std) == pytest.approx(
        (2.2108139300472516, 0.0773777184082819), abs=1e-6
    )


def test_inception_score_at_its_ends():
    assert inception_score(np.eye(10).repeat(5, axis=0), 1).mean == pytest.approx(10)
    assert inception_score(np.full((20, 4), 0.25), 2).mean == pytest.approx(1)
    for bad in (np.ones((4, 4)), np.full((4, 2), np.nan), np.array([[1.5, -0.5]] * 4), np.ones(3)):
        with pytest.raises(ValueError, match="probabilities"):
            inception_score(bad, 1)
    with pytest.raises(ValueError, match="splits"):
        inception_score(np.full((4, 2), 0.5), 5)

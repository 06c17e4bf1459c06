"""Measures whether videos show what their prompts say: similarity and retrieval in the judge's space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lumiere.evaluation.bootstrap import at_ceiling, bootstrap, prediction_interval
from lumiere.evaluation.caption_keys import caption_key
from lumiere.evaluation.mean_scores import mean_score
from lumiere.evaluation.scores import (
    ZERO_TO_ONE,
    Better,
    Definition,
    Floor,
    Interval,
    Score,
)


@dataclass(frozen=True)
class Retrieval:
    """Scores of how well sentences find their videos.

    Attributes:
        recall_1, recall_5: share of sentences whose video ranks first, or among the first five, in
            [0, 1].
        median_rank: 1 is perfect; (candidates + 1) / 2 is chance.
        num_queries, num_candidates: the scores depend on them, so report them with the scores.
    """

    recall_1: float
    recall_5: float
    median_rank: float
    num_queries: int
    num_candidates: int

    def chance(self) -> Retrieval:
        """Return the average scores of a random order of the same candidates."""
        n = self.num_candidates
        return Retrieval(1 / n, min(5, n) / n, (n + 1) / 2, self.num_queries, n)


def retrieval(
    queries: np.ndarray, candidates: np.ndarray, targets: np.ndarray | None = None
) -> Retrieval:
    """Rank candidates by cosine similarity for each query.

    Ties count against the query, so that a constant embedding gets the worst score.

    Args:
        queries: (k, d) sentence embeddings.
        candidates: (n, d) video embeddings.
        targets: (k,) the index of each query's own video; by default, that of the query.

    Raises:
        ValueError: if shapes or indices do not fit, or a value is not finite.
    """
    similarity = cosine_similarity(queries, candidates)
    if targets is None:
        if len(queries) != len(candidates):
            raise ValueError(
                f"{len(queries)} queries and {len(candidates)} candidates; give targets"
            )
        targets = np.arange(len(queries))
    targets = np.asarray(targets)
    if targets.shape != (len(queries),) or targets.min() < 0 or targets.max() >= len(candidates):
        raise ValueError(
            f"targets of shape {targets.shape}; expected {len(queries)} indices below {len(candidates)}"
        )
    own = similarity[np.arange(len(queries)), targets][:, None]
    ranks = (similarity >= own).sum(1)  # the video itself counts once: rank 1 is best
    return Retrieval(
        recall_1=float((ranks <= 1).mean()),
        recall_5=float((ranks <= 5).mean()),
        median_rank=float(np.median(ranks)),
        num_queries=len(queries),
        num_candidates=len(candidates),
    )


def cosine_similarity(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return the cosine similarity of each query with each candidate: (k, d), (n, d) → (k, n)
    float64 in [−1, 1].

    Raises:
        ValueError: if a row is empty, zero or not finite, or d differs.
    """
    x, y = np.asarray(queries, np.float64), np.asarray(candidates, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise ValueError(
            f"embeddings of shapes {x.shape} and {y.shape}; expected (k, d) and (n, d)"
        )
    return _unit_rows(x) @ _unit_rows(y).T


def _unit_rows(values: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not (norms > 0).all():
        raise ValueError("embeddings: a row is zero or not finite")
    return values / norms


def text_alignment(text: np.ndarray, videos: np.ndarray) -> float:
    """Return the mean cosine similarity of each prompt with its own video, in [−1, 1]: (n, d), (n,
    d) → float.

    This is CLIP similarity in the judge's space, so values of different judges cannot be compared.
    """
    if len(text) != len(videos):
        raise ValueError(
            f"{len(text)} prompts and {len(videos)} videos; expected as many prompts as videos"
        )
    return float(np.diagonal(cosine_similarity(text, videos)).mean())


@dataclass(frozen=True)
class CaptionPool:
    """All captions that a video's own caption has to beat.

    Attributes:
        texts: the candidates; equal sentences occur once.
        own: for each video, the positions of all sentences that describe it.
    """

    texts: list[str]
    own: list[list[int]]


def caption_pool(
    prompts: Sequence[str], real_captions: Sequence[Sequence[str]]
) -> tuple[CaptionPool, CaptionPool]:
    """Collect the captions of all real videos, held-out ones included, and those of generated videos.

    A real video has several sentences of the same meaning. All of them count as the video's own,
    and as the own ones of a video that was generated from any of them. Sentences that differ only
    in case or spaces are one.

    Args:
        prompts: the sentence of each generated video.
        real_captions: the sentences of each real video.

    Returns:
        The same candidates twice: with the own sentences of the generated and of the real videos.

    Raises:
        ValueError: if there are fewer than 2 different sentences.
    """
    positions: dict[str, int] = {}
    texts: list[str] = []
    for text in [*(text for captions in real_captions for text in captions), *prompts]:
        if positions.setdefault(caption_key(text), len(texts)) == len(texts):
            texts.append(text)
    if len(texts) < 2:
        raise ValueError(f"{len(texts)} different captions; retrieval needs at least 2")
    own_real = [
        sorted({positions[caption_key(text)] for text in sentences}) for sentences in real_captions
    ]
    equal: dict[int, set[int]] = {}
    for own in own_real:
        for position in own:
            equal.setdefault(position, set()).update(own)
    own_generated = []
    for prompt in prompts:
        position = positions[caption_key(prompt)]
        own_generated.append(sorted(equal.get(position, set()) | {position}))
    return CaptionPool(texts, own_generated), CaptionPool(texts, own_real)


def caption_ranks(
    videos: np.ndarray, captions: np.ndarray, own: Sequence[Sequence[int]]
) -> np.ndarray:
    """Return the rank of each video's own caption among all captions; 1 is best.

    The best of the own captions is ranked among those of other videos. Ties count against the
    video, so that a constant embedding gets the worst rank.

    Args:
        videos: (n, d) embeddings.
        captions: (c, d) embeddings of the candidates.
        own: for each video, the positions of its own captions.

    Returns:
        (n,) integers from 1 to c.

    Raises:
        ValueError: if the shapes do not fit, a video has no own caption, or no caption is another's.
    """
    similarity = cosine_similarity(videos, captions)
    if len(own) != len(videos):
        raise ValueError(f"{len(videos)} videos, own captions of {len(own)}; expected as many")
    ranks = []
    for row, positions in zip(similarity, own, strict=True):
        others = np.ones(len(row), bool)
        others[list(positions)] = False
        if not others.any() or others.all():
            raise ValueError("each video needs a caption of its own, and captions of other videos")
        best = row[list(positions)].max()
        ranks.append(1 + int((row[others] >= best).sum()))
    return np.array(ranks)


def retrieval_scores(
    ranks: np.ndarray,
    real_ranks: np.ndarray | None,
    num_candidates: int,
    *,
    subjects: Sequence[str] | None = None,
    real_subjects: Sequence[str] | None = None,
    prefix: str = "retrieval",
    note: str = "",
    seed: int = 0,
) -> list[Score]:
    """Return R@1, R@5 and the median rank of the videos' own captions.

    A score is marked saturated if it is at its ceiling, up to one video, or at least as good as
    that of real videos: it can then no longer show that one video is better than another.

    Args:
        ranks: (n,) of the generated videos, from `caption_ranks`.
        real_ranks: (m,) of real videos of the same subjects, windows A and B; None if there are
            none. They are the floor.
        num_candidates: the number of captions, which the scores depend on.
        subjects, real_subjects: names; videos of one subject are resampled together.
        prefix: of the keys `<prefix>_r1`, `<prefix>_r5` and `<prefix>_median_rank`.
        note: a sentence for each score.
        seed: of the bootstrap.

    Raises:
        ValueError: if there are fewer than 2 videos, or a rank is not within 1 … num_candidates.
    """
    about = (
        f"{note} Each video looks for its own caption among {num_candidates} captions. Ties count "
        "against it."
    ).strip()
    ranks = _check_ranks(ranks, num_candidates)
    if real_ranks is not None:
        real_ranks = _check_ranks(real_ranks, num_candidates)
    scores = []
    for first in (1, 5):
        chance = min(first, num_candidates) / num_candidates
        definition = Definition(
            f"R@{first} among all captions",
            Better.HIGHER,
            "",
            f"{about} Chance is {chance:.4f}.",
            bounds=ZERO_TO_ONE,
            is_share=True,
        )
        score = mean_score(
            f"{prefix}_r{first}",
            definition,
            ranks <= first,
            () if real_ranks is None else real_ranks <= first,
            group="text",
            subjects=subjects,
            real_subjects=None if real_ranks is None else real_subjects,
            seed=seed,
        )
        scores.append(replace(score, saturated=_is_saturated(score, len(ranks))))
    own = _Ranks(ranks, _owners(ranks, subjects))
    real = None
    if real_ranks is not None:
        real = _Ranks(real_ranks, _owners(real_ranks, real_subjects))
    return [*scores, _median_score(own, real, num_candidates, prefix, about, seed)]


def _is_saturated(score: Score, num_videos: int) -> bool:
    as_good_as_real = score.floor is not None and score.value >= score.floor.value
    return as_good_as_real or at_ceiling(score.value, num_videos)


@dataclass(frozen=True)
class _Ranks:
    """Ranks of videos. Videos of one subject are drawn together.

    Attributes:
        values: (n,), one per video.
        owners: (n,), the number of each video's subject, from 0 on.
    """

    values: np.ndarray
    owners: np.ndarray

    @property
    def num_subjects(self) -> int:
        return int(self.owners.max()) + 1

    def median(self) -> float:
        return float(np.median(self.values))

    def interval(self, seed: int) -> Interval | None:
        """Return the bootstrap interval of the median; None for a single subject."""
        if self.num_subjects < 2:
            return None

        def median_of(subjects: np.ndarray) -> float:
            times = np.bincount(subjects, minlength=self.num_subjects)
            return float(np.median(np.repeat(self.values, times[self.owners])))

        return bootstrap(median_of, self.num_subjects, seed=seed)


def _owners(ranks: np.ndarray, subjects: Sequence[str] | None) -> np.ndarray:
    if subjects is None:  # each video has its own
        return np.arange(len(ranks))
    owners: np.ndarray = np.unique(np.asarray(subjects), return_inverse=True)[1]
    return owners


def _median_score(
    own: _Ranks, real: _Ranks | None, num_candidates: int, prefix: str, note: str, seed: int
) -> Score:
    value = own.median()
    floor = None
    if real is not None:
        floor = _median_floor(real, own.num_subjects, num_candidates, seed)
    return Score(
        key=f"{prefix}_median_rank",
        label="Median rank among all captions",
        group="text",
        value=value,
        better=Better.LOWER,
        interval=own.interval(seed),
        floor=floor,
        num_videos=len(own.values),
        saturated=value <= 1 or (floor is not None and value <= floor.value),
        note=f"{note} Chance is {(num_candidates + 1) / 2:g}.",
    )


def _median_floor(real: _Ranks, count: int, num_candidates: int, seed: int) -> Floor:
    value, interval = real.median(), real.interval(seed)
    if interval is None:
        return Floor(value)
    predicted = prediction_interval(interval, value, real.num_subjects, count)
    if predicted is None:
        return Floor(value)
    return Floor(value, predicted.within((1, num_candidates)))


def _check_ranks(ranks: np.ndarray, num_candidates: int) -> np.ndarray:
    ranks = np.asarray(ranks)
    if ranks.ndim != 1 or len(ranks) < 2:
        raise ValueError(f"ranks of shape {ranks.shape}; expected at least 2 videos")
    if ranks.min() < 1 or ranks.max() > num_candidates:
        raise ValueError(f"ranks {ranks.min()} to {ranks.max()} among {num_candidates} captions")
    return ranks

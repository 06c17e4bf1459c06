"""Measures whether videos show what their prompts say: similarity and retrieval in the judge's space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Retrieval:
    """How well sentences find their videos.

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

"""Scores of how well videos show what their captions say, by the judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lumiere.evaluation.alignment import (
    caption_pool,
    caption_ranks,
    cosine_similarity,
    retrieval_scores,
)
from lumiere.evaluation.caption_keys import caption_key
from lumiere.evaluation.judge import Judge
from lumiere.evaluation.matching import MatchedSets
from lumiere.evaluation.mean_scores import mean_score
from lumiere.evaluation.measure_videos import Measurement
from lumiere.evaluation.measurements import Measured, own_subject, real_name
from lumiere.evaluation.scores import COSINE, Better, Definition, LeftOut, Score

UNKNOWN_CAPTIONS = (
    "the embedded judge was trained on none of these captions, so it cannot judge them; train it on "
    "them, or give CLIP's weights."
)


def text_scores(
    sets: MatchedSets, measured: Measured, judge: Judge, seed: int, left_out: list[LeftOut]
) -> tuple[list[Score], dict[int, int]]:
    """Return alignment and retrieval among all captions, and each generated video's rank."""
    generated = [m for m in measured.generated.values() if m.caption]
    captions = [sentences for sentences in sets.real_captions if sentences]
    if len(generated) < 2 or len(captions) < 2:
        left_out.append(
            LeftOut(
                "Text alignment",
                "at least two generated and two real videos need captions.",
            )
        )
        return [], {}
    num_known = sum(judge.captions.issuperset(sentences) for sentences in captions)
    if judge.captions and not num_known:
        left_out.append(LeftOut("Text alignment", UNKNOWN_CAPTIONS))
        return [], {}
    real, again = _with_captions(measured.real), _with_captions(measured.other_windows)
    pool, _ = caption_pool([m.caption for m in generated], sets.real_captions)
    embedded = judge.encode_text(pool.texts)
    ranks = caption_ranks(_text_space(generated), embedded, pool.own)
    real_ranks = real_subjects = None
    if real:
        windows = [*real, *again]
        real_ranks = _real_ranks(windows, sets.real_captions, pool.texts, embedded)
        real_subjects = [real_name(m.index) for m in windows]
    note = _describe_judge(judge, num_known, len(captions))
    subjects = [own_subject(sets, m) for m in generated]
    scores = [_alignment_score(generated, real, subjects, judge, note, seed)]
    scores += retrieval_scores(
        ranks, real_ranks, len(pool.texts), subjects=subjects,
        real_subjects=real_subjects, note=note, seed=seed,
    )  # fmt: skip
    return scores, {m.index: int(rank) for m, rank in zip(generated, ranks, strict=True)}


def _describe_judge(judge: Judge, num_known: int, num_videos: int) -> str:
    """Name the judge, and the number of videos that it was trained on if that is known."""
    if not judge.captions:
        return f"The judge is the {judge.name}."
    return f"The judge is the {judge.name}, which was trained on {num_known} of these {num_videos} videos."


def _with_captions(measurements: Mapping[int, Measurement]) -> list[Measurement]:
    return [m for m in measurements.values() if m.captions]


def _real_ranks(
    windows: Sequence[Measurement],
    real_captions: Sequence[Sequence[str]],
    texts: Sequence[str],
    embedded: np.ndarray,
) -> np.ndarray:
    """Return the rank of each real window's caption among all texts, the prompts included."""
    pool, _ = caption_pool([m.captions[0] for m in windows], real_captions)
    own = pool.own
    if pool.texts != texts:
        # A prompt that no real video has is a candidate for the real ones as well.
        own = [_positions(texts, m.captions) for m in windows]
    return caption_ranks(_text_space(windows), embedded, own)


def _positions(texts: Sequence[str], captions: Sequence[str]) -> list[int]:
    keys = {caption_key(caption) for caption in captions}
    return [i for i, text in enumerate(texts) if caption_key(text) in keys]


def _text_space(measurements: Sequence[Measurement]) -> np.ndarray:
    return np.stack([m.text_space for m in measurements if m.text_space is not None])


def _alignment_score(
    generated: Sequence[Measurement],
    real: Sequence[Measurement],
    subjects: Sequence[str],
    judge: Judge,
    note: str,
    seed: int,
) -> Score:
    values = _own_similarity(generated, [m.caption for m in generated], judge)
    floor: Sequence[float] | np.ndarray = ()
    if real:
        floor = _own_similarity(real, [m.captions[0] for m in real], judge)
    definition = Definition(
        "Similarity with its caption",
        Better.HIGHER,
        "",
        f"{note} The score is the mean cosine in its space. It is not CLIPSIM.",
        bounds=COSINE,
    )
    return mean_score(
        "text_alignment", definition, values, floor, group="text", subjects=subjects, seed=seed
    )


def _own_similarity(
    measurements: Sequence[Measurement], captions: Sequence[str], judge: Judge
) -> np.ndarray:
    text = judge.encode_text(list(captions))
    return np.diagonal(cosine_similarity(text, _text_space(measurements))).copy()

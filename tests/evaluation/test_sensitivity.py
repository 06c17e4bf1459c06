"""The study of what scores see: its rules, a small run on real videos, and the committed tables."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lumiere.data.video_io import read_video
from lumiere.evaluation.backbones import EMBEDDED, load_backbone
from lumiere.evaluation.blind_scores import BLIND, NOT_JUDGED, mark
from lumiere.evaluation.clip_sets import resized
from lumiere.evaluation.judge import load_judge
from lumiere.evaluation.measure_videos import Networks
from lumiere.evaluation.report.verdict import counts
from lumiere.evaluation.scores import Better, Floor, Interval, Score
from lumiere.evaluation.study.degradations import DEGRADATIONS, degrade_frames
from lumiere.evaluation.study.sensitivity import (
    STUDY_FILE,
    Study,
    StudyVideos,
    _Runs,
    judge_study,
    study_file,
)
from lumiere.evaluation.study.study_tables import blind_scores, replace_tables, tables
from lumiere.evaluation.study.study_verdicts import (
    EXPECTED,
    Cell,
    Verdict,
    can_see,
    judge_steps,
)
from lumiere.evaluation.temporal.motion import measure_background
from lumiere.evaluation.videos import Video, read_captions

ROOT = Path(__file__).parents[2]
SUBJECTS = 6
# What the small run below has to find again in the committed study.
CELLS = [
    ("independent_frechet", "noise"),
    ("independent_frechet", "torn"),
    ("independent_frechet", "other_subject"),
    ("independent_frechet", "swapped"),
    ("independent_frechet", "reversed"),
    ("independent_kernel", "noise"),
    ("independent_kernel", "torn"),
    ("independent_similarity", "noise"),
    ("independent_similarity", "torn"),
    ("independent_similarity", "swapped"),
    ("independent_similarity", "reversed"),
    ("text_alignment", "swapped"),
    ("background_noise", "noise"),
    ("frame_change", "frozen"),
    ("frame_change", "reversed"),
    ("background_noise", "swapped"),
]


def load_study():
    return json.loads((ROOT / "docs" / STUDY_FILE).read_text(encoding="utf-8"))


def score(value, better=Better.LOWER, low=1.0, high=2.0):
    return Score("key", "", "distances", value, better, floor=Floor(1.5, Interval(low, high)))


def judged(values, better=Better.LOWER):
    labels = [f"step {k}" for k in range(1, len(values))]
    return judge_steps([score(value, better) for value in values], labels)


def test_a_score_that_worsens_is_seen_from_the_first_step_outside():
    cell = judged([1.5, 1.8, 2.5, 4.0])
    assert cell.verdict is Verdict.SEEN
    assert cell.seen_from == "step 2"
    assert cell.outside == (False, False, True, True)
    assert cell.order == 1.0


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([1.5, 1.5, 1.6, 1.4], Verdict.NOT_SEEN),
        ([1.5, 4.0, 3.0, 2.5], Verdict.WRONG_ORDER),
        ([1.5, 3.0, 2.5, 1.5], Verdict.WRONG_ORDER),
        ([1.5, 3.0, 2.9, 3.1], Verdict.SEEN),  # within the tolerance
    ],
)
def test_verdicts(values, verdict):
    assert judged(values).verdict is verdict


def test_what_is_worse_depends_on_the_score():
    assert judged([1.5, 0.5, 0.2], Better.HIGHER).verdict is Verdict.SEEN
    assert judged([1.5, 2.5, 4.0], Better.HIGHER).verdict is Verdict.NOT_SEEN  # it improves
    assert judged([1.5, 0.5, 0.2], Better.CLOSER).verdict is Verdict.SEEN
    assert judged([1.5, 2.5, 4.0], Better.CLOSER).verdict is Verdict.SEEN
    assert judged([1.5, 0.0, 1.6], Better.CLOSER).verdict is Verdict.WRONG_ORDER


def test_the_interval_is_centred_on_the_undegraded_set():
    assert judged([1.9, 1.9, 1.9], Better.CLOSER).verdict is Verdict.NOT_SEEN
    assert judged([2.1, 2.1, 2.1], Better.CLOSER).verdict is Verdict.NOT_SEEN
    assert judged([1.9, 2.3, 2.5], Better.CLOSER).seen_from == "step 2"


def test_a_value_within_the_floors_own_interval_is_not_outside():
    """An interval that ends at 0 leaves no room below it, wherever the undegraded set lies."""
    low = [score(value, Better.CLOSER, low=0.0, high=3.0) for value in (2.0, 0.2, 0.0)]
    assert judge_steps(low, ["weak", "strong"]).verdict is Verdict.NOT_SEEN
    high = [score(value, Better.CLOSER, low=0.0, high=3.0) for value in (2.0, 4.0, 5.0)]
    assert judge_steps(high, ["weak", "strong"]).seen_from == "weak"


def test_without_an_interval_nothing_is_known():
    scores = [replace(score(value), floor=Floor(1.5)) for value in (1.5, 3.0)]
    cell = judge_steps(scores, ["step"])
    assert cell.verdict is Verdict.UNKNOWN
    assert can_see("motion_share", {"frozen": cell}) == (False, NOT_JUDGED)
    assert can_see("fvd", {"frozen": cell}) == (True, "")  # it is not part of the study


def test_an_interval_without_width_is_left_by_any_change_for_the_worse():
    scores = [score(value, low=1.5, high=1.5) for value in (1.5, 1.6)]
    assert judge_steps(scores, ["step"]).verdict is Verdict.SEEN
    assert judge_steps(scores[:1] * 2, ["step"]).verdict is Verdict.NOT_SEEN


def test_steps_that_a_set_does_not_allow():
    cell = judge_steps([score(1.5), None, score(3.0)], ["weak", "strong"])
    assert cell.verdict is Verdict.SEEN and cell.seen_from == "strong"
    assert math.isnan(cell.values[1])
    cell = judge_steps([score(1.5), score(3.0), None], ["weak", "strong"])
    assert cell.verdict is Verdict.SEEN and cell.seen_from == "weak"
    with pytest.raises(ValueError, match="one score more"):
        judge_steps([score(1.5)], ["weak"])


def test_a_score_counts_if_it_sees_half_of_what_it_is_meant_for():
    seen, unseen, wrong = (
        Cell((), (), 1.0, verdict)
        for verdict in (Verdict.SEEN, Verdict.NOT_SEEN, Verdict.WRONG_ORDER)
    )
    assert can_see("motion_share", {"frozen": seen, "jitter": unseen}) == (True, "")
    sees, why = can_see("motion_share", {"frozen": unseen, "jitter": unseen})
    assert not sees and "frozen" in why
    sees, why = can_see("motion_share", {"frozen": seen, "jitter": wrong})
    assert not sees and "order" in why
    assert can_see("motion_share", {"frozen": seen, "jitter": seen, "blur": wrong})[0]
    assert can_see("another network's score", {"blur": unseen})[0]


def test_expectations_name_degradations():
    for key, names in EXPECTED.items():
        assert set(names) <= set(DEGRADATIONS), key


# --- the committed study -------------------------------------------------------------------------------


def test_committed_study_follows_its_own_rules():
    study = load_study()
    assert set(study["scores"]) == set(EXPECTED)
    for key, entry in study["scores"].items():
        assert set(entry["degradations"]) == set(DEGRADATIONS), key
        cells = {
            name: Cell((), (), cell["order"] or math.nan, Verdict(cell["verdict"]), cell["from"])
            for name, cell in entry["degradations"].items()
        }
        assert can_see(key, cells) == (entry["sees"], entry["why"])


def test_the_main_scores_see():
    scores = load_study()["scores"]
    for key in ("independent_frechet", "independent_kernel", "independent_similarity"):
        assert scores[key]["sees"], key


def test_blind_scores_are_marked():
    entries = load_study()["scores"]
    scores = [replace(score(1.0), key=key) for key in entries]
    assert [found.sees for found in mark(scores)] == [entry["sees"] for entry in entries.values()]
    assert mark([replace(score(1.0), key="fvd")])[0].sees
    assert blind_scores(load_study()) == BLIND


def test_no_verdict_rests_on_scores_that_the_study_could_not_judge():
    for key in ("period_s", "period_kept", "period_mismatch_s", "phase_coherence"):
        far = replace(score(9.0), key=key)
        assert far.outside_floor() and counts(far)
        assert not counts(mark([far])[0])
        assert BLIND[key] == NOT_JUDGED


def test_the_document_shows_the_committed_study():
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert replace_tables(text, tables(load_study())) == text
    with pytest.raises(ValueError, match="to put the tables between"):
        replace_tables("no marks", "")


# --- a small run -----------------------------------------------------------------------------------------


def windows():
    """Yield subject, captions, window A and window B (4 frames of 32 × 32) of videos of data/raw."""
    captions = read_captions(ROOT / "data" / "captions.csv")
    for path in sorted((ROOT / "data" / "raw").glob("*.mp4")):
        frames = read_video(path, 16)
        if len(frames) >= 40:
            small = resized(frames[:40:4], (32, 32))
            yield path.stem, captions[path.name], small[:4], small[6:10]


@pytest.fixture(scope="module")
def study():
    found = [row for row, _ in zip(windows(), range(2 * SUBJECTS), strict=False)]

    def video(row, window):
        subject, captions, *frames = row
        return Video(f"{subject}@{window}", frames[window], 4.0, captions[0], captions, subject)

    videos = StudyVideos(
        reference=[video(row, 0) for row in found[:SUBJECTS]],
        spoilt=[video(row, 1) for row in found[:SUBJECTS]],
        others=[video(row, 0) for row in found[SUBJECTS:]],
        captions=[row[1] for row in found],
    )
    main = load_backbone(EMBEDDED)
    return Study(videos, Networks(main, judge=load_judge(ROOT / "pretrained" / "judge")))


@pytest.fixture(scope="module")
def found(study):
    """The undegraded scores, and the table: key → degradation → cell."""
    start = study.scores(study.videos.spoilt)
    runs = {}
    for name in dict.fromkeys(name for _, name in CELLS):
        degradation = DEGRADATIONS[name]
        runs[name] = study.run(replace(degradation, steps=degradation.steps[-3::2]))
    return start, judge_runs(start, runs), runs


def judge_runs(start, runs):
    table = {entry.key: {} for entry in start}
    for entry in start:
        for name, steps in runs.items():
            scores = [entry]
            for step in steps:
                scores += [found for found in step if found.key == entry.key]
            if len(scores) == len(steps) + 1:
                table[entry.key][name] = judge_steps(scores, [str(k) for k in range(len(steps))])
    return table


def test_undegraded_videos_score_the_floor(found):
    start, _, _ = found
    for entry in start:
        if entry.key in ("independent_frechet", "independent_kernel", "independent_similarity"):
            assert entry.value == pytest.approx(entry.floor.value, rel=1e-6, abs=1e-9)
            assert not entry.outside_floor(), entry.key


@pytest.mark.parametrize(("key", "degradation"), CELLS)
def test_a_small_run_agrees_with_the_committed_study(found, key, degradation):
    _, table, _ = found
    committed = load_study()["scores"][key]["degradations"][degradation]
    assert table[key][degradation].verdict == committed["verdict"]


@pytest.mark.parametrize("name", ["noise", "torn", "other_subject"])
def test_the_main_distances_worsen_step_by_step(found, name):
    _, table, _ = found
    for key in ("independent_frechet", "independent_kernel"):
        if (key, name) == ("independent_kernel", "other_subject"):
            continue  # it compares distributions, and other subjects have the same one
        values = table[key][name].values
        assert list(values) == sorted(values) and len(set(values)) == len(values), key
    values = table["independent_similarity"][name].values
    assert list(values) == sorted(values, reverse=True)


def test_features_of_known_frames_are_the_networks_own(study):
    video = study.videos.reference[0]
    known = study.networks.main
    new = np.concatenate([video.frames[:1], 255 - video.frames[:1]])
    assert np.array_equal(known.embed(new), known.backbone.embed(new))
    assert known.identity == known.backbone.identity


def test_an_interrupted_run_goes_on(found, tmp_path):
    _, _, runs = found
    computed = []

    def compute():
        computed.append(1)
        return runs["swapped"]

    first = _Runs(tmp_path / "runs.json", {"seed": 0}).get("swapped", compute)
    again = _Runs(tmp_path / "runs.json", {"seed": 0}).get("swapped", compute)
    assert first == again == runs["swapped"]
    assert len(computed) == 1
    _Runs(tmp_path / "runs.json", {"seed": 1}).get("swapped", compute)
    assert len(computed) == 2


def test_the_file_of_a_study_holds_no_nan(found):
    start, _, runs = found
    whole = {"reversed": runs["reversed"]}  # the other runs have fewer steps
    content = study_file(start, whole, {"seed": 0})
    json.dumps(content, allow_nan=False)
    assert set(content["scores"]) == set(judge_study(start, whole))


def test_speckle_in_the_background_of_real_videos_is_measured(study):
    """Edges and stripes must not count: real clips have next to no noise, at every step more."""
    levels = []
    for amount in (0, 1, 2, 5, 10):
        found = [
            measure_background(degrade_frames(DEGRADATIONS["speckle"], amount, video.frames)).noise
            for video in study.videos.reference
        ]
        levels.append(np.mean(found))
    assert levels[0] < 0.3
    assert levels == sorted(levels)
    assert levels[3] == pytest.approx(5, rel=0.2)

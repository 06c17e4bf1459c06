"""Small contents of a report, for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from lumiere.evaluation.report import (
    Curve,
    ReportContent,
    SensitivityRow,
    Slice,
    StyleRow,
    WallEntry,
)
from lumiere.evaluation.scores import Better, Floor, Interval, LeftOut, Score


def score(
    key: str = "independent_frechet",
    value: float = 286.0,
    floor: tuple[float, float, float] | None = (16.0, 14.0, 19.0),
    better: Better = Better.LOWER,
    group: str = "distances",
    **changes: Any,
) -> Score:
    """A score whose floor is (value, low, high)."""
    found = None if floor is None else Floor(floor[0], Interval(floor[1], floor[2]))
    label = changes.pop("label", key.replace("_", " "))
    return Score(key, label, group, value, better, floor=found, num_videos=24, **changes)


def video(seed: int = 0, num_frames: int = 4, side: int = 8) -> np.ndarray:
    """Frames of noise, uint8 (t, side, side, 3)."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (num_frames, side, side, 3), dtype=np.uint8)


def entry(name: str = "taxi", **changes: Any) -> WallEntry:
    """A video of the wall beside a real one."""
    values = {"caption": f"a {name}", "generated": video(1), "fps": 16.0, "real": video(2)}
    return WallEntry(name, **(values | changes))


def content(**changes: Any) -> ReportContent:
    """A content with everything in it."""
    values: dict[str, Any] = {
        "title": "Evaluation",
        "generated": "2 clips",
        "real": "2 real clips",
        "scores": [
            score(interval=Interval(260.0, 310.0), note="A proxy, never FID."),
            score("flicker", 0.98, (0.99, 0.985, 0.995), Better.CLOSER, "temporal"),
            score("seam_ratio", 1.0, (1.0, 0.9, 1.1), group="seams"),
        ],
        "left_out": [LeftOut("fvd", "the weights of I3D were not given")],
        "wall": [entry("taxi", rank=2), entry("moon", rank=1, similarity=0.4, held_out=True)],
        "curves": [
            Curve(
                "spectrum",
                "Spectrum",
                "Hz",
                "power",
                {"generated": np.array([3.0, 2.0]), "real": np.array([2.0, 1.0])},
                x=np.array([4.0, 8.0]),
                marks={"border": [5.0]},
            )
        ],
        "styles": [StyleRow("ink", alpha, 1 - alpha, 1.0, video(3)) for alpha in (1.0, 0.0)],
        "slices": [Slice("taxi", video(4)[:, 4], video(5)[:, 4])],
        "sensitivity": [SensitivityRow("flicker", "reversed", None)],
        "facts": [("seed", "0")],
    }
    return ReportContent(**(values | changes))

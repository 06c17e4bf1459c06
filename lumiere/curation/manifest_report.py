"""Writes the curation report: a page, a funnel with histograms, and contact sheets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lumiere.curation.manifest import SCHEMA
from lumiere.curation.reasons import Reason
from lumiere.data.contact_sheets import contact_sheet, save_picture

SHEET_CLIPS = 60  # accepted clips on the contact sheet, evenly spaced

Row = dict[str, Any]


def counts(rows: list[Row]) -> dict[str, int | float]:
    """Count inputs, clips, seconds, and how often each reason occurs, for the metrics file."""
    table = pd.DataFrame(rows, columns=SCHEMA.names)
    accepted = table[table["verdict"] == "accepted"]
    videos_by_decoder = table.groupby("decoder")["video"].nunique()
    reasons = table.loc[table["reason"] != "", "reason"].value_counts().sort_index()
    numbers = {
        "inputs": int(table["video"].nunique()),
        "accepted": len(accepted),
        "rejected": len(table) - len(accepted),
        "train": int((accepted["split"] == "train").sum()),
        "validation": int((accepted["split"] == "validation").sum()),
        "captions": sum(map(len, accepted["captions"])),
        "seconds": round(float((accepted["end"] - accepted["start"]).sum()), 2),
        "read_by_decord": int(videos_by_decoder.get("decord", 0)),
        "read_by_pyav": int(videos_by_decoder.get("pyav", 0)),
    }
    return numbers | {f"rejected_{reason}": int(count) for reason, count in reasons.items()}


def write_report(
    folder: Path, rows: list[Row], pictures: Mapping[str, np.ndarray], min_motion: float
) -> None:
    """Write report.md, curation.png, accepted.png and rejected.png; the same rows give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    rejected = [row for row in rows if row["verdict"] == "rejected"]
    accepted = [row for row in rows if row["verdict"] == "accepted"]
    _draw_plots(folder / "curation.png", rows, min_motion)
    picks = np.unique(
        np.linspace(0, len(accepted) - 1, min(SHEET_CLIPS, len(accepted))).round().astype(int)
    )
    _draw_sheet(folder / "accepted.png", [accepted[i] for i in picks], pictures, 12)
    shown = [row for row in rejected if row["clip_id"] in pictures]
    if shown:
        _draw_sheet(folder / "rejected.png", shown[:SHEET_CLIPS], pictures, 6)
    (folder / "report.md").write_text(_page(rows, rejected, bool(shown)), encoding="utf-8")


def _page(rows: list[Row], rejected: list[Row], has_rejected_sheet: bool) -> str:
    numbers = counts(rows)
    reasons = Counter(row["reason"] for row in rejected)
    decoders = Counter(row["decoder_reason"] for row in rows if row["decoder"] == "pyav")
    lines = [
        "# Curation",
        "",
        (
            f"{numbers['inputs']} inputs gave {len(rows)} clips or verdicts: **{numbers['accepted']} accepted** "
            f"({numbers['train']} for training, {numbers['validation']} held out, {numbers['seconds']:g} s in all), "
            f"**{numbers['rejected']} rejected**."
        ),
        "",
        "![funnel and histograms](curation.png)",
        "",
        "## Why inputs were rejected",
        "",
        "| reason | clips | meaning |",
        "|---|---:|---|",
        *(
            f"| `{reason}` | {count} | {Reason(reason).sentence} |"
            for reason, count in sorted(reasons.items())
        ),
        "",
        "| clip | reason | what was found |",
        "|---|---|---|",
        *(
            f"| {_cell(row['clip_id'])} | `{row['reason']}` | {_cell(row['detail'])} |"
            for row in rejected
        ),
        "",
        "## Who reads them",
        "",
        f"decord: {numbers['read_by_decord']}. PyAV: {numbers['read_by_pyav']}"
        + "".join(f"; {_cell(reason)}: {count}" for reason, count in sorted(decoders.items()))
        + ".",
        "",
        "## Pictures",
        "",
        "![some accepted clips](accepted.png)",
        *(["", "![rejected clips](rejected.png)"] if has_rejected_sheet else []),
        "",
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Escape text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _draw_sheet(
    path: Path, rows: list[Row], pictures: Mapping[str, np.ndarray], columns: int
) -> None:
    """Draw the second of each clip's four frames above its name (accepted) or its reason (rejected)."""
    frames = [
        np.repeat(np.repeat(pictures[row["clip_id"]][1], 2, axis=0), 2, axis=1) for row in rows
    ]
    labels = [row["reason"] or row["clip_id"] for row in rows]
    save_picture(contact_sheet(frames, columns, labels), path)


def _draw_plots(path: Path, rows: list[Row], min_motion: float) -> None:
    accepted = [row for row in rows if row["verdict"] == "accepted"]
    # Draw without pyplot, because there may be no display.
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    funnel, motion, seconds = figure.subplots(1, 3)
    steps = _funnel(rows)
    bars = funnel.barh(
        [name for name, _ in steps][::-1], [count for _, count in steps][::-1], color="#4c78a8"
    )
    funnel.bar_label(bars, padding=2)
    funnel.margins(x=0.15)
    funnel.set_title("clips left after each check")
    moving = [row["motion"] for row in rows if row["hash"]]
    # Motion gets a lower limit, because a still has motion 0, which has no logarithm.
    motion.hist(
        np.maximum(moving, 1e-4),
        bins=np.geomspace(1e-4, max(10.0, *moving, 1e-4), 40),
        color="#4c78a8",
    )
    motion.set_xscale("log")
    motion.axvline(
        max(min_motion, 1e-4), color="#e45756", linestyle="--", label="curate.min_motion"
    )
    motion.legend()
    motion.set_title("motion, pixels per frame at 64 pixels")
    seconds.hist([row["end"] - row["start"] for row in accepted], bins=30, color="#4c78a8")
    seconds.set_title("length of accepted clips, seconds")
    # Leave the version of matplotlib out of the file, so that the bytes stay the same.
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _funnel(rows: list[Row]) -> list[tuple[str, int]]:
    """Count how many clips are left after each check, in the order of the checks."""
    stages = {
        "present": {
            Reason.NOT_A_VIDEO,
            Reason.NOT_A_FILE,
            Reason.OUTSIDE_FOLDER,
            Reason.CAPTION_WITHOUT_VIDEO,
        },
        "readable": {Reason.UNREADABLE, Reason.TRUNCATED, Reason.TIMEOUT, Reason.CRASHED},
        "captioned": {Reason.NO_CAPTION, Reason.BAD_SPAN, Reason.CAPTION_SPANS_CUTS},
        "large, long enough": {Reason.TOO_SMALL, Reason.TOO_SHORT},
        "moving": {Reason.NO_MOTION},
        "unique": {Reason.DUPLICATE},
    }
    left, steps = len(rows), [("all", len(rows))]
    for name, reasons in stages.items():
        left -= sum(row["reason"] in reasons for row in rows)
        steps.append((name, left))
    return steps

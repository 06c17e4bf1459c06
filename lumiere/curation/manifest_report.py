"""Writes the curation report: a page, plots and contact sheets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lumiere.curation.manifest import SCHEMA, clip_name, describe_duplicate, kept_clip, notes_about
from lumiere.curation.reasons import Reason
from lumiere.curation.thresholds import MODEL_SCORES, PICTURE_SCORES
from lumiere.curation.unread_captions import TITLE, UnreadCaptions, named
from lumiere.data.contact_sheets import contact_sheet, save_picture
from lumiere.plurals import counted, there_are

SHEET_CLIPS = 60  # accepted clips on the contact sheet, evenly spaced

Row = dict[str, Any]


def counts(rows: list[Row]) -> dict[str, int | float]:
    """Count videos, clips, seconds and the occurrences of each reason, for the metrics file."""
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
        "accepted_seconds": round(float((accepted["end"] - accepted["start"]).sum()), 2),
        "read_by_decord": int(videos_by_decoder.get("decord", 0)),
        "read_by_pyav": int(videos_by_decoder.get("pyav", 0)),
    }
    if any("captioner" in row for row in rows):
        numbers["captioned"] = sum(bool(row["captioner"]) for row in rows if not row["reason"])
    return numbers | {f"rejected_{reason}": int(count) for reason, count in reasons.items()}


def write_report(
    folder: Path,
    rows: list[Row],
    pictures: Mapping[str, np.ndarray],
    min_motion: float,
    unread: UnreadCaptions | None = None,
) -> None:
    """Write report.md, curation.png, accepted.png and rejected.png; the same rows give the same bytes.

    Args:
        folder: for the files.
        rows: of the manifest.
        pictures: four frames of each clip that could be read, uint8 (4, 64, 64, 3), by clip_id.
        min_motion: the threshold.
        unread: captions that are not read in full; without it, the report does not mention them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rejected = [row for row in rows if row["verdict"] == "rejected"]
    accepted = [row for row in rows if row["verdict"] == "accepted"]
    _draw_plots(folder / "curation.png", rows, min_motion)
    num_shown = min(SHEET_CLIPS, len(accepted))
    picks = np.unique(np.linspace(0, len(accepted) - 1, num_shown).round().astype(int))
    _draw_sheet(folder / "accepted.png", [accepted[i] for i in picks], pictures, 12)
    shown = [row for row in rejected if row["clip_id"] in pictures]
    if shown:
        _draw_sheet(folder / "rejected.png", shown[:SHEET_CLIPS], pictures, 6)
    page = _page(rows, rejected, bool(shown), unread)
    (folder / "report.md").write_text(page, encoding="utf-8")


def _page(
    rows: list[Row],
    rejected: list[Row],
    has_rejected_sheet: bool,
    unread: UnreadCaptions | None,
) -> str:
    numbers = counts(rows)
    lines = [
        "# Curation",
        "",
        (
            f"The raw folder and captions.csv name {counted(int(numbers['inputs']), 'file')}. In them "
            f"{there_are(len(rows), 'candidate')}: **{numbers['accepted']} accepted** "
            f"({numbers['train']} for training and {numbers['validation']} held out, "
            f"{numbers['accepted_seconds']:g} s together) and **{numbers['rejected']} rejected**."
        ),
        "",
        "![how many candidates each check leaves, their motion and their length](curation.png)",
        "",
        *_captioned(rows),
        *(_unread(unread) if unread else []),
        *_rejections(rejected, rows),
        *_decoders(rows, numbers),
        "## Pictures",
        "",
        "Some of the accepted clips:",
        "",
        "![accepted clips](accepted.png)",
        "",
    ]
    if has_rejected_sheet:
        lines += ["The rejected clips that could be read:", "", "![rejected clips](rejected.png)"]
        lines.append("")
    return "\n".join(lines)


def _captioned(rows: list[Row]) -> list[str]:
    """Say how many clips a model describes."""
    names = sorted({row["captioner"] for row in rows if row.get("captioner")})
    if not names:
        return []
    number = int(counts(rows)["captioned"])
    have = f"{counted(number, 'accepted clip')} {'has its' if number == 1 else 'have their'}"
    return [f"{have} captions from `{_cell(names[0])}`.", ""]


def _unread(unread: UnreadCaptions) -> list[str]:
    """Return which captions the text encoder does not read in full."""
    lines = [f"## {TITLE}", "", _cell(unread.summary), ""]
    if not unread.cut and not unread.odd:
        return lines
    lines += ["| caption | clip | not read |", "|---|---|---|"]
    for caption in dict.fromkeys((*unread.cut, *unread.odd)):
        lost = [caption.rest.strip()] if caption.rest else []
        lost += [f"unknown: {' '.join(caption.unknown)}"] if caption.unknown else []
        cells = (caption.read + caption.rest, named(caption.clip_ids), "; ".join(lost))
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    for what, captions, number in (
        ("are too long", unread.cut, unread.num_cut),
        ("have unknown words", unread.odd, unread.num_odd),
    ):
        if number > len(captions):
            lines += ["", f"The table shows {len(captions)} of the {number} captions that {what}."]
    return [*lines, ""]


def _rejections(rejected: list[Row], rows: list[Row]) -> list[str]:
    """Return two tables: how often each reason occurs, and each rejected candidate."""
    kept = {clip_name(row): row for row in rows if row["verdict"] == "accepted"}
    lines = ["## Rejected", ""]
    if not rejected:
        return [*lines, "Nothing was rejected.", ""]
    reasons = Counter(row["reason"] for row in rejected)
    lines += ["| reason | candidates | meaning |", "|---|---:|---|"]
    for reason, count in sorted(reasons.items()):
        lines.append(f"| `{reason}` | {count} | {Reason(reason).sentence} |")
    lines += ["", "| candidate | reason | details |", "|---|---|---|"]
    for row in rejected:
        detail = row["detail"]
        if row["reason"] == Reason.DUPLICATE:
            best = kept.get(kept_clip(detail))
            notes = notes_about(row, best) if best else []
            quoted = ", ".join(f'"{note}"' for note in notes)
            detail = describe_duplicate(detail) + (f" Its notes say: {quoted}." if notes else "")
        lines.append(f"| {_cell(row['clip_id'])} | `{row['reason']}` | {_cell(detail)} |")
    return [*lines, ""]


def _decoders(rows: list[Row], numbers: dict[str, int | float]) -> list[str]:
    """Return how many videos each decoder can read, and why decord cannot read the others."""
    lines = [
        "## Decoders",
        "",
        (
            f"Both decoders can read {counted(int(numbers['read_by_decord']), 'video')}, and return the same frames. "
            f"PyAV alone can read {counted(int(numbers['read_by_pyav']), 'more video')}. "
            "`decode.decoder` says which one reads the others."
        ),
        "",
    ]
    # A video may have several rows; count it once.
    reasons = {row["video"]: row["decoder_reason"] for row in rows if row["decoder"] == "pyav"}
    if not reasons:
        return lines
    lines += ["| why only PyAV reads it | videos |", "|---|---:|"]
    for reason, count in sorted(Counter(reasons.values()).items()):
        lines.append(f"| {_cell(reason)} | {count} |")
    return [*lines, ""]


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
    left_after, motion, seconds = figure.subplots(1, 3)
    steps = funnel(rows)
    names, left = zip(*reversed(steps), strict=True)  # matplotlib draws from below
    bars = left_after.barh(names, left, color="#4c78a8")
    left_after.bar_label(bars, padding=2)
    left_after.margins(x=0.15)
    left_after.set_title("candidates left after each check")
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


def funnel(rows: list[Row]) -> list[tuple[str, int]]:
    """Count how many candidates are left after each check, in the order of the checks."""
    stages = {
        "a video file": {
            Reason.HIDDEN,
            Reason.NOT_A_VIDEO,
            Reason.NOT_A_FILE,
            Reason.OUTSIDE_FOLDER,
            Reason.CAPTION_WITHOUT_VIDEO,
        },
        "readable": {
            Reason.UNREADABLE,
            Reason.TRUNCATED,
            Reason.DAMAGED,
            Reason.TIMEOUT,
            Reason.TOO_MUCH_MEMORY,
            Reason.CRASHED,
        },
        "has a usable caption": {Reason.NO_CAPTION, Reason.BAD_SPAN, Reason.CAPTION_SPANS_CUTS},
        "large and long enough": {Reason.TOO_SMALL, Reason.TOO_SHORT},
        "moves": {Reason.NO_MOTION},
        "sharp, not too dark or bright": {score.reason for score in PICTURE_SCORES},
        "reaches the models' scores": {score.reason for score in MODEL_SCORES},
        "not a duplicate": {Reason.DUPLICATE},
    }
    if not any(score.column in row for row in rows for score in MODEL_SCORES):
        del stages["reaches the models' scores"]
    if not any(row["reason"] in stages["sharp, not too dark or bright"] for row in rows):
        del stages["sharp, not too dark or bright"]  # usually, these thresholds are off
    left, steps = len(rows), [("all candidates", len(rows))]
    for name, reasons in stages.items():
        left -= sum(row["reason"] in reasons for row in rows)
        steps.append((name, left))
    return steps

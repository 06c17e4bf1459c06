"""Writes the curation page: one HTML file with pictures, scores and what each threshold decides."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from lumiere.config import CurateConfig
from lumiere.curation.manifest import ALSO, clip_name, describe_duplicate, kept_clip, notes_about
from lumiere.curation.manifest_report import counts, funnel
from lumiere.curation.page_style import SCRIPT, STYLE
from lumiere.curation.reasons import Reason
from lumiere.curation.score_charts import Score, chart
from lumiere.curation.split import split_notes
from lumiere.curation.thresholds import MODEL_SCORES, PICTURE_SCORES, LimitedScore, plain
from lumiere.curation.unread_captions import UnreadCaptions, html_section
from lumiere.data.frame_sizes import Size, as_sizes, fitting_part, nearest
from lumiere.files import write_atomically

MOST_CLIPS = 400  # of each verdict that are shown; more are picked evenly
MOST_GROUPS, MOST_IN_GROUP = 60, 16
STRIP_HEIGHT = 72  # pixels of a frame
WIDEST = 2.4  # width by height of a frame that is shown
DIM = 0.35  # brightness of what training cuts off
GAP = 3  # pixels between frames
QUALITY = 70  # of WebP
NEAR = 1.5  # times a threshold; clips below are worth a look

Row = dict[str, Any]
Pictures = Mapping[str, np.ndarray]


def write_page(
    path: Path,
    rows: list[Row],
    pictures: Pictures,
    config: CurateConfig,
    size: Any = 1,
    unread: UnreadCaptions | None = None,
) -> None:
    """Write the page; the same rows give the same bytes.

    Args:
        path: the HTML file.
        rows: the manifest's rows.
        pictures: four frames of each clip that could be read, uint8 (4, 64, 64, 3), by clip_id.
        config: the thresholds.
        size: `decode.size`, whose shape decides what training sees of each clip; a square by default.
        unread: captions that are not read in full; without it, the page does not mention them.
    """
    sizes = as_sizes(size)
    shown = Shown(pictures, sizes)
    accepted = [row for row in rows if row["verdict"] == "accepted"]
    rejected = [row for row in rows if row["verdict"] == "rejected"]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Curation</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body><main>",
        *_head(rows, config, sizes, unread),
        *_charts(rows, config),
        *_doubtful(accepted, shown, config),
        *(html_section(unread) if unread else []),
        *_groups(accepted, rejected, shown),
        *_rejected(rejected, shown),
        *_accepted(accepted, shown),
        f'<script type="application/json" id="scores">{_scores(rows)}</script>',
        f"<script>{SCRIPT}</script></main></body></html>\n",
    ]
    write_atomically(path, "\n".join(parts).encode())


@dataclass(frozen=True)
class Shown:
    """Holds the pictures of clips that the page shows.

    Attributes:
        pictures: uint8 (4, 64, 64, 3), by clip_id.
        sizes: (height, width) of training clips; each clip has the nearest shape.
    """

    pictures: Pictures
    sizes: tuple[Size, ...]

    def strip(self, row: Row, which: slice = slice(None)) -> np.ndarray:
        """Put frames of a clip in a row, in their real proportions, with what training cuts off
        dark: uint8 (h, w, 3).
        """
        aspect = float(np.clip(row["width"] / max(1, row["height"]), 1 / WIDEST, WIDEST))
        height, width = STRIP_HEIGHT, max(1, round(STRIP_HEIGHT * aspect))
        size = self.sizes[nearest(self.sizes, max(1, row["height"]), max(1, row["width"]))]
        inner_height, inner_width = fitting_part((height, width), size)
        top, left = (height - inner_height) // 2, (width - inner_width) // 2
        inner = slice(top, top + inner_height), slice(left, left + inner_width)
        shown = []
        for frame in self.pictures[row["clip_id"]][which]:
            whole = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
            dark = (whole * DIM).astype(np.uint8)
            dark[inner] = whole[inner]
            shown += [np.full((height, GAP, 3), 255, np.uint8), dark]
        return np.concatenate(shown[1:], axis=1)


def _head(
    rows: list[Row], config: CurateConfig, sizes: Sequence[Size], unread: UnreadCaptions | None
) -> list[str]:
    """Return the title, the counts, the notes, and what each check leaves."""
    numbers = counts(rows)
    figures = [
        (numbers["inputs"], "files named"),
        (numbers["accepted"], "clips accepted"),
        (numbers["rejected"], "rejected"),
        (numbers["train"], "for training"),
        (numbers["validation"], "held out"),
        (f"{numbers['accepted_seconds']:g} s", "accepted"),
    ]
    if "captioned" in numbers:
        figures.append((numbers["captioned"], "described by a model"))
    is_square = all(height == width for height, width in sizes)
    part = "square" if is_square else "part"
    parts = ["<h1>Curation</h1>"]
    parts.append(
        '<p class="dim">Which clips the model will see, which not, and why. Each clip shows four '
        f"frames; training sees the bright {part} in the middle.</p>"
    )
    links = {"scores-at": "Scores", "look": "Worth a look", "alike": "Look-alikes"}
    links |= {"unread": "Captions"} if unread else {}
    links |= {"rejected": "Rejected", "accepted": "Accepted"}
    parts.append("<nav>" + "".join(f'<a href="#{k}">{v}</a>' for k, v in links.items()) + "</nav>")
    parts.append(
        '<input class="search" type="search" placeholder="Show clips that hold these words …">'
    )
    cells = (f'<div class="figure"><b>{value}</b>{word}</div>' for value, word in figures)
    parts.append(f'<div class="figures">{"".join(cells)}</div>')
    warnings = split_notes(rows, config.validation_fraction)
    warnings += [unread.note] if unread and unread.note else []
    for note in warnings:
        parts.append(f'<p class="warning">{escape(note[0].upper() + note[1:])}.</p>')
    parts.append("<h2>What each check leaves</h2>")
    parts.append('<div class="funnel">')
    for name, left in funnel(rows):
        share = 100 * left / max(1, len(rows))
        parts.append(f'<span>{escape(name)}</span><div style="width:{share:.1f}%">{left}</div>')
    return [*parts, "</div>"]


def _charts(rows: list[Row], config: CurateConfig) -> list[str]:
    """Return a histogram of each score."""
    measured = [row for row in rows if row["hash"]]
    is_accepted = [row["verdict"] == "accepted" for row in measured]

    def score(key: str, title: str, **settings: Any) -> Score:
        return Score(key, title, [_value(row, key) for row in measured], is_accepted, **settings)

    scores = [
        score(
            "motion", "motion, pixels per frame at 64 pixels", parameter="curate.min_motion",
            threshold=config.min_motion, reason=Reason.NO_MOTION.value, is_strict=True, is_log=True,
        ),
        score(
            "seconds", "length, seconds", parameter="curate.min_seconds",
            threshold=config.min_seconds, reason=Reason.TOO_SHORT.value,
        ),
        score(
            "side", "shorter side, pixels", parameter="curate.min_side",
            threshold=config.min_side, reason=Reason.TOO_SMALL.value,
        ),
        *(score(each.column, each.title, **_threshold(each, config)) for each in PICTURE_SCORES),
        score("bitrate", "bits per second of the file", is_log=True, lowest=1e3),
        score("rate", "frames per second of the file"),
    ]  # fmt: skip
    for model in _model_scores(rows):
        scores.append(score(model.column, model.title, **_threshold(model, config)))
    lines = ['<h2 id="scores-at">Scores</h2>']
    lines.append(
        "<p>Accepted clips are blue, rejected ones grey, for whatever reason. The red line is the "
        "threshold. If you move a slider, the clips below that would be dropped fade, and those "
        "that would be added get a green frame. Whether an added clip is a duplicate, and whether a "
        "duplicate takes the place of a dropped one, shows when the stage runs.</p>"
    )
    return [*lines, '<div class="charts">', *map(chart, scores), "</div>"]


def _threshold(score: LimitedScore, config: CurateConfig) -> dict[str, Any]:
    """Return what the chart of a score says of its threshold."""
    limit = score.limit(config)
    settings: dict[str, Any] = {
        "parameter": f"curate.{score.parameter}", "threshold": score.off if limit is None else limit,
        "reason": score.reason.value, "is_upper": score.is_upper, "is_off": limit is None,
    }  # fmt: skip
    if score.lowest:
        settings |= {"is_log": True, "lowest": score.lowest}
    return settings


def _limited_scores(rows: Sequence[Row]) -> list[LimitedScore]:
    """Return the scores of pictures, and those of the models that the params name."""
    return [*PICTURE_SCORES, *_model_scores(rows)]


def _model_scores(rows: Sequence[Row]) -> list[LimitedScore]:
    """Return the scores of the models that the params name."""
    return [score for score in MODEL_SCORES if any(score.column in row for row in rows)]


def _value(row: Row, key: str) -> float:
    """Return a score of a row."""
    if key == "seconds":
        return row["end"] - row["start"]
    if key == "side":
        return min(row["width"], row["height"])
    return row["frame_rate"] if key == "rate" else row[key]


def _scores(rows: list[Row]) -> str:
    """Return the scores that the page's script reads, as JSON."""
    entries = [
        {
            "id": row["clip_id"],
            "reason": row["reason"],
            "motion": row["motion"],
            "seconds": round(_value(row, "seconds"), 9),
            "side": _value(row, "side"),
            **{score.column: row[score.column] for score in _limited_scores([row])},
            **({"stays": True} if ALSO in row["detail"] else {}),
        }
        for row in rows
        if row["hash"]
    ]
    return json.dumps(entries, separators=(",", ":")).replace("<", "\\u003c")


def _doubtful(accepted: list[Row], shown: Shown, config: CurateConfig) -> list[str]:
    """Return the accepted clips that are unusual, or near a threshold."""
    lines = ['<h2 id="look">Accepted, but worth a look</h2>']
    doubtful = [row for row in accepted if _warnings(row, config)]
    if not doubtful:
        return [*lines, "<p>No accepted clip is unusual or near a threshold.</p>"]
    lines.append(
        "<p>These clips are unusual, were corrected, or hardly reach a threshold "
        f"({_shown(doubtful)}).</p>"
    )
    cards = (_card(row, shown, _warnings(row, config)) for row in _picked(doubtful))
    return [*lines, '<div class="clips">', *cards, "</div>"]


def _warnings(row: Row, config: CurateConfig) -> list[str]:
    warnings = list(row["notes"])
    if row["motion"] < NEAR * config.min_motion:
        warnings.append(f"hardly moves ({row['motion']:.3g}, limit {config.min_motion:g})")
    if _value(row, "seconds") < 1.05 * config.min_seconds:
        warnings.append(f"hardly long enough ({_value(row, 'seconds'):.2f} s)")
    if _value(row, "side") < NEAR * config.min_side:
        warnings.append(f"small ({row['width']} × {row['height']})")
    return warnings


def _groups(accepted: list[Row], rejected: list[Row], shown: Shown) -> list[str]:
    """Return the groups of look-alikes, and the duplicates beside what is kept."""
    lines = ['<h2 id="alike">Look-alikes and duplicates</h2>']
    lines.append(
        "<p>Videos that look alike, or are edited copies, stay on one side of the split. Of "
        "duplicates, the best is kept.</p>"
    )
    by_video: dict[str, Row] = {}
    for row in accepted:
        by_video.setdefault(row["video"], row)
    groups: dict[str, list[Row]] = {}
    for row in by_video.values():
        groups.setdefault(row["group"], []).append(row)
    several = sorted(
        (group for group in groups.values() if len(group) > 1),
        key=lambda group: (-len(group), group[0]["clip_id"]),
    )
    blocks = []
    by_name = {clip_name(row): row for row in accepted}
    for row in rejected:
        kept = by_name.get(kept_clip(row["detail"]))
        if row["reason"] == Reason.DUPLICATE and kept is not None:
            notes = notes_about(row, kept)
            blocks.append(_block("Duplicate: the first one is kept", [kept, row], shown, notes))
    for group in several[:MOST_GROUPS]:
        side = {"train": "for training", "validation": "held out"}[group[0]["split"]]
        blocks.append(_block(f"{len(group)} videos, all {side}", group, shown))
    if not blocks:
        return [*lines, "<p>No two videos look alike.</p>"]
    if len(several) > MOST_GROUPS:
        lines.append(f"<p>The {MOST_GROUPS} largest of {len(several)} groups are shown.</p>")
    return [*lines, '<div class="groups">', *blocks, "</div>"]


def _block(title: str, rows: Sequence[Row], shown: Shown, notes: Sequence[str] = ()) -> str:
    figures = []
    for row in rows[:MOST_IN_GROUP]:
        source = _data_uri(shown.strip(row, slice(1, 2)))
        figures.append(
            f'<figure><img alt="" loading="lazy" src="{source}">'
            f"<figcaption>{escape(clip_name(row))}</figcaption></figure>"
        )
    more = len(rows) - MOST_IN_GROUP
    extra = f"<small>and {more} more</small>" if more > 0 else ""
    extra += "".join(f"<br><small>{escape(note)}</small>" for note in notes)
    return (
        f'<div class="group"><b>{escape(title)}</b>'
        f'<div class="pictures">{"".join(figures)}</div>{extra}</div>'
    )


def _rejected(rejected: list[Row], shown: Shown) -> list[str]:
    """Return the rejected inputs by reason."""
    lines = ['<h2 id="rejected">Rejected</h2>']
    if not rejected:
        return [*lines, "<p>Nothing was rejected.</p>"]
    for reason, count in sorted(Counter(row["reason"] for row in rejected).items()):
        lines.append(f"<h3><code>{reason}</code> · {count}</h3>")
        lines.append(f"<p>{escape(Reason(reason).sentence)}</p>")
        own = [row for row in rejected if row["reason"] == reason]
        lines.append('<div class="clips">')
        lines += [_card(row, shown, []) for row in _picked(own)]
        lines.append("</div>")
    return lines


def _accepted(accepted: list[Row], shown: Shown) -> list[str]:
    lines = ['<h2 id="accepted">Accepted</h2>', f"<p>{_shown(accepted).capitalize()}.</p>"]
    cards = (_card(row, shown, row["notes"]) for row in _picked(accepted))
    return [*lines, '<div class="clips">', *cards, "</div>"]


def _shown(rows: list[Row]) -> str:
    if len(rows) <= MOST_CLIPS:
        return f"all {len(rows)} are shown"
    return f"{MOST_CLIPS} of {len(rows)} are shown"


def _picked(rows: list[Row]) -> list[Row]:
    """Return at most `MOST_CLIPS` rows, evenly spaced."""
    count = min(MOST_CLIPS, len(rows))
    return [rows[i] for i in np.linspace(0, len(rows) - 1, count).round().astype(int).tolist()]


def _card(row: Row, shown: Shown, warnings: Sequence[str]) -> str:
    """Return one clip with its frames, captions, scores and badges."""
    clip_id, picture = row["clip_id"], ""
    if clip_id in shown.pictures:
        picture = f'<img alt="" loading="lazy" src="{_data_uri(shown.strip(row))}">'
    badges = [f'<span class="badge {row["split"]}">{row["split"]}</span>'] if row["split"] else []
    if row.get("captioner"):
        badges.append(f'<span class="badge">caption by {escape(row["captioner"])}</span>')
    badges += [f'<span class="badge note">{escape(warning)}</span>' for warning in warnings]
    lines = [f"<b>{escape(clip_id)}</b> {' '.join(badges)}"]
    if row["reason"] and row["detail"] != Reason(row["reason"]).sentence:
        lines.append(f"<br><small>{escape(_detail(row))}</small>")
    if row["captions"]:
        sentences = (f"<li>{escape(caption)}</li>" for caption in row["captions"])
        lines.append(f"<ul>{''.join(sentences)}</ul>")
    if row["hash"]:
        lines.append(
            f'<br><small class="dim">{row["width"]} × {row["height"]}, '
            f"{row['start']:.2f}–{row['end']:.2f} s, motion {row['motion']:.3g}"
            + "".join(f", {s.column} {plain(row[s.column])}" for s in _limited_scores([row]))
            + "</small>"
        )
    return (
        f'<article class="clip" data-id="{escape(clip_id)}" data-reason="{row["reason"]}">'
        f"{picture}<div>{''.join(lines)}</div></article>"
    )


def _detail(row: Row) -> str:
    if row["reason"] == Reason.DUPLICATE:
        return describe_duplicate(row["detail"])
    return row["detail"]


def _data_uri(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()

"""Finds captions that the text encoder of the decode stage does not read in full, for the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from lumiere.errors import one_line
from lumiere.plurals import counted
from lumiere.text import TextEncoder, load_text_encoder
from lumiere.text.lost_words import Loss, find_losses, notes

MOST_SHOWN = 20  # captions of each kind
TITLE = "Captions that are not read in full"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class UnreadCaption:
    """A caption of which the encoder does not read a part.

    Attributes:
        clip_ids: the accepted clips that it describes.
        read, rest: its beginning, and the end that is cut off, which may be empty; a word may be cut in two.
        unknown: the words or characters that the encoder does not know.
    """

    clip_ids: tuple[str, ...]
    read: str
    rest: str
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class UnreadCaptions:
    """What an encoder does not read of the captions of accepted clips.

    Attributes:
        summary: one paragraph.
        number: how many captions are not read in full; None if they could not be checked.
        num_cut, num_odd: how many captions are too long, and how many contain unknown words.
        cut, odd: the first of them.
        note: the same on one line, for the console; empty if everything is read.
    """

    summary: str
    number: int | None = None
    num_cut: int = 0
    num_odd: int = 0
    cut: Sequence[UnreadCaption] = field(default=())
    odd: Sequence[UnreadCaption] = field(default=())
    note: str = ""


def find_unread(rows: Iterable[Row], encoder: str, max_tokens: int) -> UnreadCaptions:
    """Let the encoder's tokenizer read the captions of the accepted clips. Its network is not loaded.

    Args:
        rows: of the manifest.
        encoder: a name that `load_text_encoder` takes.
        max_tokens: to which every sentence is cut.
    """
    clips: dict[str, list[str]] = {}
    for row in rows:
        if row["verdict"] == "accepted":
            for text in dict.fromkeys(row["captions"]):
                clips.setdefault(text, []).append(row["clip_id"])
    try:
        reader = load_text_encoder(encoder, max_tokens)
        losses = find_losses(clips, reader)
    except (ValueError, ImportError, OSError) as error:  # at which the decode stage will stop
        why = f"decode.text_encoder cannot read them: {one_line(error)}"
        return UnreadCaptions(
            f"The captions were not checked, because {why}.",
            note=f"captions were not checked, because {why}",
        )
    cut = [text for text, loss in losses.items() if loss.num_cut]
    odd = [text for text, loss in losses.items() if loss.unknown]
    name = f"The text encoder {encoder}"
    if losses:
        summary = (
            f"{name} does not read {len(losses)} of {counted(len(clips), 'caption')} in full: "
            f"{len(cut)} with more than {max_tokens} tokens (decode.max_text_tokens), "
            f"{len(odd)} with unknown words."
        )
    elif clips:
        what = f"all {len(clips)} captions" if len(clips) > 1 else "the only caption"
        summary = f"{name} reads {what} in full."
    else:
        summary = "No accepted clip has a caption."
    return UnreadCaptions(
        summary,
        len(losses),
        len(cut),
        len(odd),
        [_unread(text, clips, losses, reader) for text in cut[:MOST_SHOWN]],
        [_unread(text, clips, losses, reader) for text in odd[:MOST_SHOWN]],
        f"captions: {'; '.join(notes(losses, reader))}" if losses else "",
    )


def _unread(
    text: str, clips: Mapping[str, list[str]], losses: Mapping[str, Loss], reader: TextEncoder
) -> UnreadCaption:
    end = reader.num_read(text)
    return UnreadCaption(tuple(clips[text]), text[:end], text[end:], losses[text].unknown)


def html_section(unread: UnreadCaptions) -> list[str]:
    """Return the section of the page, with the ends that are cut off struck out."""
    lines = [f'<h2 id="unread">{TITLE}</h2>', f"<p>{escape(unread.summary)}</p>"]
    kinds = (
        ("Too long", unread.cut, unread.num_cut),
        ("Unknown words", unread.odd, unread.num_odd),
    )
    for title, captions, number in kinds:
        if not captions:
            continue
        lines.append(f"<h3>{title}</h3>")
        if number > len(captions):
            lines.append(f"<p>The list shows {len(captions)} of {number} captions.</p>")
        lines.append("<ul>")
        for caption in captions:
            rest = f"<del>{escape(caption.rest)}</del>" if caption.rest else ""
            words = "".join(f" <mark>{escape(word)}</mark>" for word in caption.unknown)
            where = escape(named(caption.clip_ids))
            lines.append(f"<li>{escape(caption.read)}{rest}{words} <small>{where}</small></li>")
        lines.append("</ul>")
    return lines


def named(clip_ids: Sequence[str]) -> str:
    """Return the first of some clips, and how many there are besides."""
    more = len(clip_ids) - 1
    return clip_ids[0] + (f" and {counted(more, 'more clip')}" if more else "")

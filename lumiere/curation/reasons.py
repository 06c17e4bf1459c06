"""Lists the reasons why an input is not used: codes for the manifest, each with a sentence."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The codes in the manifest's column `reason`."""

    HIDDEN = "hidden"
    NOT_A_VIDEO = "not_a_video"
    NOT_A_FILE = "not_a_file"
    OUTSIDE_FOLDER = "outside_folder"
    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"
    DAMAGED = "damaged"
    TIMEOUT = "timeout"
    TOO_MUCH_MEMORY = "too_much_memory"
    CRASHED = "crashed"
    TOO_SHORT = "too_short"
    TOO_SMALL = "too_small"
    NO_CAPTION = "no_caption"
    BAD_SPAN = "bad_span"
    CAPTION_SPANS_CUTS = "caption_spans_cuts"
    CAPTION_WITHOUT_VIDEO = "caption_without_video"
    NO_MOTION = "no_motion"
    BLURRED = "blurred"
    TOO_DARK = "too_dark"
    TOO_BRIGHT = "too_bright"
    LOW_AESTHETIC = "low_aesthetic"
    CAPTION_MISMATCH = "caption_mismatch"
    TOO_MUCH_TEXT = "too_much_text"
    DUPLICATE = "duplicate"

    @property
    def sentence(self) -> str:
        """The reason in words, for people."""
        return _SENTENCES[self]


_SENTENCES = {
    Reason.HIDDEN: "Its name, or that of a folder around it, begins with a dot, so it was not opened.",
    Reason.NOT_A_VIDEO: "The suffix of its name is not that of a video, so it was not opened.",
    Reason.NOT_A_FILE: "It is not a regular file but, for example, a pipe, a folder or a broken link.",
    Reason.OUTSIDE_FOLDER: "It is a link that leads out of the raw folder and of curate.allowed_roots.",
    Reason.UNREADABLE: "No decoder can read a frame from it.",
    Reason.TRUNCATED: "It contains fewer frames than its header promises.",
    Reason.DAMAGED: "Parts of its pictures are damaged, and a decoder fills them with guesses.",
    Reason.TIMEOUT: "Reading it gave no frame for longer than curate.timeout_s.",
    Reason.TOO_MUCH_MEMORY: "Reading it took more memory than curate.memory_mb.",
    Reason.CRASHED: "The process that read it crashed.",
    Reason.TOO_SHORT: "It is shorter than curate.min_seconds.",
    Reason.TOO_SMALL: "Its shorter side has fewer pixels than curate.min_side.",
    Reason.NO_CAPTION: "captions.csv has no caption for it.",
    Reason.BAD_SPAN: "The start and end of its caption do not mark a part of the video.",
    Reason.CAPTION_SPANS_CUTS: "Its caption describes more than one shot, so no single shot shows all of it.",
    Reason.CAPTION_WITHOUT_VIDEO: "captions.csv names a video that does not exist.",
    Reason.NO_MOTION: "It hardly moves: its mean optical flow is not above curate.min_motion.",
    Reason.BLURRED: "Its sharpness is below curate.min_sharpness.",
    Reason.TOO_DARK: "More of its pictures is nearly black than curate.max_dark_share.",
    Reason.TOO_BRIGHT: "More of its pictures is nearly white than curate.max_bright_share.",
    Reason.LOW_AESTHETIC: "Its aesthetic score is below curate.min_aesthetic.",
    Reason.CAPTION_MISMATCH: "What it shows fits its caption less than curate.min_caption_match.",
    Reason.TOO_MUCH_TEXT: "Text covers more of its pictures than curate.max_text_area.",
    Reason.DUPLICATE: "It shows the same as a better clip, which is kept.",
}


class Rejection(Exception):
    """One input that cannot be used."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail or reason.sentence

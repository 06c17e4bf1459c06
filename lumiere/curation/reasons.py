"""Why an input is not used: the codes in the manifest, each with a sentence."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Reason codes; `sentence` is the same for people."""

    NOT_A_VIDEO = "not_a_video"
    NOT_A_FILE = "not_a_file"
    OUTSIDE_FOLDER = "outside_folder"
    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    TOO_SHORT = "too_short"
    TOO_SMALL = "too_small"
    NO_CAPTION = "no_caption"
    BAD_SPAN = "bad_span"
    CAPTION_SPANS_CUTS = "caption_spans_cuts"
    CAPTION_WITHOUT_VIDEO = "caption_without_video"
    NO_MOTION = "no_motion"
    DUPLICATE = "duplicate"

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES = {
    Reason.NOT_A_VIDEO: "The file's suffix is none of a video format, so it was not opened.",
    Reason.NOT_A_FILE: "It is no regular file (a pipe, a device, a broken link), which would hang a decoder.",
    Reason.OUTSIDE_FOLDER: "It is a link to a file outside of the raw folder.",
    Reason.UNREADABLE: "No decoder gets a frame out of it.",
    Reason.TRUNCATED: "Fewer frames came than the header promised.",
    Reason.TIMEOUT: "It took longer than curate.timeout_s and was given up.",
    Reason.CRASHED: "The process that read it died.",
    Reason.TOO_SHORT: "It is shorter than curate.min_seconds.",
    Reason.TOO_SMALL: "Its shorter side has fewer pixels than curate.min_side.",
    Reason.NO_CAPTION: "captions.csv has no sentence for it.",
    Reason.BAD_SPAN: "The start and end of its caption are no span of the video.",
    Reason.CAPTION_SPANS_CUTS: "Its caption speaks of more than one shot, so it describes none of them.",
    Reason.CAPTION_WITHOUT_VIDEO: "captions.csv names a video that is not there.",
    Reason.NO_MOTION: "Nothing moves: its mean optical flow is not above curate.min_motion.",
    Reason.DUPLICATE: "It shows the same as another clip, which is kept.",
}


class Rejection(Exception):
    """One input that cannot be used."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail or reason.sentence

"""Measures one video at a time: its features, and all numbers that need only its pixels.

After this pass the frames are no longer needed, so that sets of any size fit into memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from lumiere.errors import VideoError, one_line
from lumiere.evaluation.backbones import AestheticHead, Classifier, FrameBackbone, VideoBackbone
from lumiere.evaluation.feature_cache import FeatureCache
from lumiere.evaluation.judge import Judge
from lumiere.evaluation.temporal.spectrum import MIN_SPECTRUM_FRAMES, temporal_spectrum
from lumiere.evaluation.temporal.video_numbers import measure_frames
from lumiere.evaluation.videos import Video, VideoSet, evenly, is_blank

EMBEDDED_FRAMES = 16  # of each video, evenly spaced; all of them in a video of the usual length
DISTANCE_FRAMES = 4  # of these, as samples of a distance; neighbours differ too little to count
# of every score of the embedded backbone
PROXY = (
    "The features are those of EfficientNet-Lite0, which was trained on ImageNet and has seen none "
    "of these videos. They serve as a proxy: this is not FID or FVD."
)


@dataclass(frozen=True)
class Networks:
    """The networks that measure.

    Attributes:
        main: the backbone that is always there; its distances are called `independent_...`.
        frame, video: further backbones on frames and on videos.
        judge: for text alignment; None without.
        aesthetic: the aesthetic head, on the features of CLIP ViT-L/14; None without.
        cache: keeps features between runs; None computes them each time.
    """

    main: FrameBackbone
    frame: Sequence[FrameBackbone] = ()
    video: Sequence[VideoBackbone] = ()
    judge: Judge | None = None
    aesthetic: AestheticHead | None = None
    cache: FeatureCache | None = None

    def embed(self, backbone: FrameBackbone | VideoBackbone, frames: np.ndarray) -> np.ndarray:
        """Return the features of frames, uint8 (n, h, w, 3), by the cache if there is one."""
        if self.cache is None:
            return backbone.embed(frames)
        return self.cache.embed(backbone, frames)


@dataclass(frozen=True)
class Measurement:
    """A video's measured values, without its pixels.

    Attributes:
        index: its place in its set.
        name, caption, captions, subject, held_out: as in `Video`.
        frames: by frame backbone, (k, d) features of k evenly spaced frames; k is
            min(t, `EMBEDDED_FRAMES`), or fewer if only distances are wanted.
        probabilities: by further frame backbone with a classifier, (k, classes).
        clip: by video backbone, (d,).
        text_space: (d,), the judge's mean embedding of min(t, `EMBEDDED_FRAMES`) frames; None
            without a judge.
        numbers: from `measure_frames`; empty if only distances are wanted.
        spectrum: from `temporal_spectrum`; None if only distances are
            wanted, or the video is too short.
        blank: whether all its pixels have one colour.
    """

    index: int
    name: str
    caption: str
    captions: tuple[str, ...]
    subject: str
    held_out: bool
    frames: dict[str, np.ndarray]
    probabilities: dict[str, np.ndarray]
    clip: dict[str, np.ndarray]
    text_space: np.ndarray | None
    numbers: dict[str, float]
    spectrum: np.ndarray | None
    blank: bool


def measure(index: int, video: Video, networks: Networks, whole: bool = True) -> Measurement:
    """Measure a video; with `whole=False` only what distances and retrieval need, which is quicker."""
    t = len(video.frames)
    sampled_frames = video.frames[evenly(t, EMBEDDED_FRAMES if whole else DISTANCE_FRAMES)]
    frame_backbones = [networks.main, *networks.frame]
    text_space = None
    if networks.judge is not None:
        # As many frames of every video: a mean of fewer is a noisier place in the judge's space.
        seen = video.frames[evenly(t, EMBEDDED_FRAMES)]
        text_space = networks.judge.encode_frames(seen).mean(0)
    numbers: dict[str, float] = {}
    spectrum = None
    if whole:
        numbers = measure_frames(video.frames, video.fps)
        if t >= MIN_SPECTRUM_FRAMES:
            spectrum = temporal_spectrum(video.frames)
    return Measurement(
        index=index,
        name=video.name,
        caption=video.caption,
        captions=video.captions,
        subject=video.subject,
        held_out=video.held_out,
        frames={
            backbone.name: networks.embed(backbone, sampled_frames) for backbone in frame_backbones
        },
        probabilities={
            backbone.name: backbone.probabilities(sampled_frames)
            for backbone in networks.frame
            if isinstance(backbone, Classifier)
        },
        clip={backbone.name: networks.embed(backbone, video.frames) for backbone in networks.video},
        text_space=text_space,
        numbers=numbers,
        spectrum=spectrum,
        blank=is_blank(video.frames),
    )


def measure_set(
    videos: VideoSet,
    indices: Sequence[int],
    networks: Networks,
    what: str,
    whole: bool = True,
) -> tuple[dict[int, Measurement], dict[str, str]]:
    """Measure some videos of a set.

    Args:
        videos: the set.
        indices: of the videos to measure.
        networks: that measure.
        what: the label of the progress bar.
        whole: see `measure`.

    Returns:
        The measurements by index, and the names of videos that cannot be decoded with the reason.
    """
    measured: dict[int, Measurement] = {}
    unreadable: dict[str, str] = {}
    for index in tqdm(indices, desc=what, unit="video", leave=False):
        try:
            video = videos[index]
        except VideoError as error:
            name = videos.names[index]
            unreadable[name] = one_line(error).removeprefix(f"{name}: ")
            continue
        measured[index] = measure(index, video, networks, whole)
    return measured, unreadable


def distance_frames(features: np.ndarray, own_window: bool) -> np.ndarray:
    """Pick the frames that a distance takes of a video: (k, d) → (at most 4, d).

    Args:
        features: of evenly spaced frames.
        own_window: False if the same video also has to give the floor, because there is no other
            window of its subject: then at most half of its frames are taken.
    """
    most = DISTANCE_FRAMES if own_window else max(1, min(DISTANCE_FRAMES, len(features) // 2))
    return features[evenly(len(features), most)]


def other_times(features: np.ndarray) -> np.ndarray:
    """Pick as many frames between those of `distance_frames(features, False)`: (k, d) → (j, d).

    Raises:
        ValueError: if there is only one frame.
    """
    if len(features) < 2:
        raise ValueError("one frame; other times need at least two")
    taken = evenly(len(features), max(1, min(DISTANCE_FRAMES, len(features) // 2)))
    rest = np.setdiff1d(np.arange(len(features)), taken)
    return features[rest[evenly(len(rest), len(taken))]]

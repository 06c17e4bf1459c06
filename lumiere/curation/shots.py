"""Finds hard cuts with PySceneDetect's content detector."""

from __future__ import annotations

import itertools
import logging
import math
from pathlib import Path

from scenedetect import ContentDetector, SceneManager, open_video

MIN_SHOT_S = 0.6  # shorter shots are mostly flashes and fast flapping; they join their neighbour

logging.getLogger("pyscenedetect").setLevel(logging.ERROR)


def find_shots(path: Path, threshold: float, duration: float) -> list[tuple[float, float]]:
    """Find the shots of a video.

    Args:
        path: the video.
        threshold: the threshold of ContentDetector, a mean change in HSV space, 0 to 255.
            AdaptiveDetector misses cuts.
        duration: where the video ends, in seconds.

    Returns:
        (start, end) of each shot in seconds from the first frame, in order and without gaps; at
        least one.
    """
    # Use the PyAV backend, because OpenCV's silently gives black frames on interlaced video.
    video = open_video(str(path), backend="pyav")
    manager = SceneManager()
    min_frames = max(2, round(MIN_SHOT_S * video.frame_rate))
    manager.add_detector(ContentDetector(threshold=threshold, min_scene_len=min_frames))
    manager.detect_scenes(video, show_progress=False)
    # Without start_in_scene, a video without a cut has no scene.
    scenes = manager.get_scene_list(start_in_scene=True)
    origin = scenes[0][0].seconds if scenes else 0.0
    # Round up to the microsecond: a start below the frame's true time would show the frame before
    # the cut.
    cuts = [math.ceil((start.seconds - origin) * 1e6 - 1e-3) / 1e6 for start, _ in scenes[1:]]
    edges = [0.0, *(cut for cut in cuts if cut < duration), duration]
    return list(itertools.pairwise(edges))

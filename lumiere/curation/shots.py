"""Hard cuts, found by PySceneDetect's content detector."""

from __future__ import annotations

import itertools
import logging
import math
from pathlib import Path

from scenedetect import ContentDetector, SceneManager, open_video

MIN_SHOT_S = 0.6  # shorter ones are mostly flashes and fast flapping; they join their neighbour

logging.getLogger("pyscenedetect").setLevel(logging.ERROR)


def find_shots(path: Path, threshold: float, duration: float) -> list[tuple[float, float]]:
    """The shots of a video, in order and without gaps, in seconds from its first frame; at least one.

    Args:
        threshold: ContentDetector's, mean change in HSV space, 0 to 255. AdaptiveDetector misses cuts.
        duration: the video's end in seconds.
    """
    # PyAV's backend: the OpenCV one gives black frames on interlaced video, without an error.
    video = open_video(str(path), backend="pyav")
    manager = SceneManager()
    manager.add_detector(
        ContentDetector(
            threshold=threshold, min_scene_len=max(2, round(MIN_SHOT_S * video.frame_rate))
        )
    )
    manager.detect_scenes(video, show_progress=False)
    scenes = manager.get_scene_list(
        start_in_scene=True
    )  # without it a video with no cut has no scene
    origin = scenes[0][0].seconds if scenes else 0.0
    # Rounded up to the microsecond: a start below its frame's true time would show the frame before the cut.
    cuts = [math.ceil((start.seconds - origin) * 1e6 - 1e-3) / 1e6 for start, _ in scenes[1:]]
    edges = [0.0, *(cut for cut in cuts if cut < duration), duration]
    return list(itertools.pairwise(edges))

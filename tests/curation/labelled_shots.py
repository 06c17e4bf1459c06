"""Videos of 64x64 pixels whose cuts are known: pans, zooms, flashes, fades, dissolves, inserts and cuts."""

from __future__ import annotations

import cv2
import numpy as np

Labelled = tuple[np.ndarray, list[int]]  # uint8 (t, 64, 64, 3), and the frames that start a shot


def scene(generator: np.random.Generator, num_frames: int, speed: float, zoom: float) -> np.ndarray:
    """A camera that pans `speed` pixels a frame over a picture, and zooms by `zoom` a frame."""
    size = 160
    picture = np.zeros((size, size, 3), np.float32)
    for cells, weight in ((3, 0.5), (10, 0.3), (40, 0.2)):
        grid = generator.uniform(0, 255, (cells, cells, 3)).astype(np.float32)
        picture += weight * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    tint = generator.uniform(0.35, 1.25, 3).astype(np.float32)
    picture = np.clip(picture * tint, 0, 255)
    angle = generator.uniform(0, 2 * np.pi)
    frames = []
    for i in range(num_frames):
        scale = 1.4 * (1 + zoom) ** i
        x = size / 2 - scale * 32 + speed * i * np.cos(angle)
        y = size / 2 - scale * 32 + speed * i * np.sin(angle)
        matrix = np.array([[scale, 0, x], [0, scale, y]], np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        frame = cv2.warpAffine(
            picture, matrix, (64, 64), flags=flags, borderMode=cv2.BORDER_REFLECT
        )
        frames.append(frame + generator.normal(0, 3, frame.shape))
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


def hard_cuts(generator: np.random.Generator) -> Labelled:
    """Two to five shots of 3 to 40 frames, with slow and fast cameras."""
    lengths = generator.integers(3, 40, generator.integers(2, 6)).tolist()
    speeds = generator.choice([0.0, 0.5, 2.0, 6.0], len(lengths))
    shots = [
        scene(generator, length, speed, float(generator.choice([0.0, 0.01])))
        for length, speed in zip(lengths, speeds, strict=True)
    ]
    return np.concatenate(shots), np.cumsum(lengths)[:-1].tolist()


def fast_motion(generator: np.random.Generator) -> Labelled:
    """One shot whose camera whips from slow to fast and back."""
    slow, fast = scene(generator, 60, 1.0, 0.0), int(generator.integers(8, 20))
    start = int(generator.integers(8, 20))
    order = [*range(start), *range(start, start + 3 * fast, 3)]
    return slow[[min(i, 59) for i in order]], []


def on_twos(generator: np.random.Generator) -> Labelled:
    """One shot of fast animation in which every frame is shown twice."""
    return np.repeat(scene(generator, 25, 6.0, 0.0), 2, axis=0), []


def flash(generator: np.random.Generator) -> Labelled:
    """One shot with a white flash of one to three frames."""
    frames = scene(generator, 40, 1.0, 0.0)
    start = int(generator.integers(3, 30))
    frames[start : start + int(generator.integers(1, 4))] = 250
    return frames, []


def fade(generator: np.random.Generator) -> Labelled:
    """One shot that fades in from black and out to black in 6 to 20 frames."""
    frames = scene(generator, 60, 1.0, 0.0).astype(np.float32)
    length = int(generator.integers(6, 21))
    ramp = np.linspace(0, 1, length)[:, None, None, None]
    frames[:length] *= ramp
    frames[-length:] *= ramp[::-1]
    return frames.astype(np.uint8), []


def dissolve(generator: np.random.Generator) -> Labelled:
    """Two scenes that dissolve into each other in 8 to 20 frames; there is no hard cut."""
    length = int(generator.integers(8, 21))
    first, second = scene(generator, 40, 1.0, 0.0), scene(generator, 40, 1.0, 0.0)
    ramp = np.linspace(0, 1, length)[:, None, None, None]
    middle = (1 - ramp) * first[-length:] + ramp * second[:length]
    return np.concatenate([first[:-length], middle.astype(np.uint8), second[length:]]), []


def insert(generator: np.random.Generator) -> Labelled:
    """One shot that another of one to six frames interrupts."""
    frames = scene(generator, 40, float(generator.choice([0.0, 1.0])), 0.0)
    length, start = int(generator.integers(1, 7)), int(generator.integers(3, 30))
    frames[start : start + length] = scene(generator, length, 1.0, 0.0)
    return frames, [start, start + length]


def light(generator: np.random.Generator) -> Labelled:
    """One shot in which a lamp or a camera's flash makes one to three frames brighter, or darker."""
    frames = scene(generator, 40, 1.0, 0.0).astype(np.float32)
    start, length = int(generator.integers(3, 30)), int(generator.integers(1, 4))
    gain, lift = [(1.6, 80), (0.25, 0)][int(generator.integers(2))]
    frames[start : start + length] = frames[start : start + length] * gain + lift
    return frames.clip(0, 255).astype(np.uint8), []


KINDS = (hard_cuts, fast_motion, on_twos, flash, fade, dissolve, insert, light)


def labelled_set(per_kind: int, seed: int = 0) -> dict[str, list[Labelled]]:
    """Videos of each kind; more with cuts, for they are what is looked for."""
    generator = np.random.default_rng(seed)
    counts = {kind: per_kind * (3 if kind is hard_cuts else 1) for kind in KINDS}
    return {kind.__name__: [kind(generator) for _ in range(n)] for kind, n in counts.items()}

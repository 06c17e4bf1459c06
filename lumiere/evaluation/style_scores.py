"""Measures style: how near a video comes to the style's pictures, and what it keeps of its content.

Blending (paper, section 4.1) moves the spatial weights from the original to the style by α. As α
grows, the distance to the style's pictures should fall, and the likeness to the same prompt and
seed at α = 0 should fall slowly.

The pixel statistics need no network; `gram_distance` takes the feature maps of an early layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from lumiere.evaluation.temporal.consistency import check_frames, unit_rows

STYLE_SIDE = 32  # pixels; pictures are squashed to this square, so that edges compare
QUANTILES = np.linspace(0.005, 0.995, 100)


@dataclass(frozen=True)
class StyleStatistics:
    """The palette and the edges of a set of pictures, as quantiles.

    Attributes:
        palette: float64 (3, 100), quantiles of CIE Lab's L, a and b.
        edges: float64 (100,), quantiles of the length of the gradient of L, per pixel.
        num_pictures: the pictures they were taken from.
    """

    palette: np.ndarray
    edges: np.ndarray
    num_pictures: int


@dataclass(frozen=True)
class StyleDistance:
    """The distance of two sets of pictures in style, in units of ΔE.

    Attributes:
        palette: how far L, a and b must be shifted on average (sum over the three).
        edges: how far the lengths of gradients must be shifted on average.
    """

    palette: float
    edges: float


def style_statistics(pictures: Iterable[np.ndarray]) -> StyleStatistics:
    """Collect palette and edges of pictures, or of a video's frames.

    Args:
        pictures: uint8 (h, w, 3) each; sizes may differ.

    Raises:
        ValueError: if there is no picture, or one is no RGB picture.
    """
    values, slopes = [], []
    for picture in pictures:
        lab = _small_lab(check_frames(np.asarray(picture)[None], at_least=1)[0])
        values.append(lab.reshape(-1, 3))
        slopes.append(_slopes(lab[..., 0]).ravel())
    if not values:
        raise ValueError("style: no picture")
    palette = np.quantile(np.concatenate(values), QUANTILES, axis=0).T  # (3, 100)
    return StyleStatistics(palette, np.quantile(np.concatenate(slopes), QUANTILES), len(values))


def style_distance(a: StyleStatistics, b: StyleStatistics) -> StyleDistance:
    """Return the earth mover's distances between palettes and between edges, in units of ΔE.

    Unlike a difference of histogram bins, it keeps growing as colours move apart, so a blend lies
    between its ends. Where pictures show other subjects it is not 0 within one style: compare with
    the style's own pictures split in two. Noise lengthens gradients: it raises `edges`.
    """
    palette = np.abs(a.palette - b.palette).mean(axis=1).sum()
    return StyleDistance(float(palette), float(np.abs(a.edges - b.edges).mean()))


def gram_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the relative distance of mean Gram matrices of feature maps (Gatys et al. 2016).

    Args:
        a, b: (n, c, h, w), feature maps of an early layer of one network; n, h and w may differ.

    Returns:
        ‖G_a − G_b‖ / √(‖G_a‖ ‖G_b‖), at least 0; 0 for equal statistics. G averages the products
        of two channels over pictures and positions.

    Raises:
        ValueError: if the channels differ, or a set is empty, zero, or not finite.
    """
    first, second = _gram(a), _gram(b)
    if first.shape != second.shape:
        raise ValueError(f"feature maps of {len(first)} and {len(second)} channels")
    scale = np.sqrt(np.linalg.norm(first) * np.linalg.norm(second))
    return float(np.linalg.norm(first - second) / scale)


def content_retention(features: np.ndarray, reference: np.ndarray) -> float:
    """Return the mean cosine of each frame to the same frame at α = 0 (same prompt and seed).

    Args:
        features, reference: (t, d), of videos of equally many frames.

    Returns:
        In [−1, 1]; 1 if the content is kept. Noise lowers it as far as the backbone reacts to it.

    Raises:
        ValueError: for other shapes, or features that are zero, NaN or infinite.
    """
    ours, theirs = unit_rows(features, at_least=1), unit_rows(reference, at_least=1)
    if ours.shape != theirs.shape:
        raise ValueError(f"features of shapes {ours.shape} and {theirs.shape}; expected one shape")
    return float(np.clip((ours * theirs).sum(axis=1).mean(), -1.0, 1.0))


def _gram(maps: np.ndarray) -> np.ndarray:
    maps = np.asarray(maps, np.float64)
    if maps.ndim != 4 or 0 in maps.shape:
        raise ValueError(f"feature maps of shape {maps.shape}; expected (n, c, h, w)")
    gram = np.einsum("nchw,ndhw->cd", maps, maps) / (len(maps) * maps.shape[2] * maps.shape[3])
    if not (np.isfinite(gram).all() and gram.any()):
        raise ValueError("feature maps are zero, NaN or infinite")
    return gram


def _small_lab(picture: np.ndarray) -> np.ndarray:
    if picture.shape[-1] != 3:
        raise ValueError(f"a picture of {picture.shape[-1]} channels; expected RGB")
    shrinks = min(picture.shape[:2]) > STYLE_SIDE
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    small = cv2.resize(
        picture.astype(np.float32) / 255.0, (STYLE_SIDE, STYLE_SIDE), interpolation=interpolation
    )
    return cv2.cvtColor(small, cv2.COLOR_RGB2LAB)


def _slopes(lightness: np.ndarray) -> np.ndarray:
    """Return the length of the gradient, per pixel: a Sobel filter sums 8 differences."""
    return np.hypot(
        cv2.Sobel(lightness, cv2.CV_32F, 1, 0) / 8, cv2.Sobel(lightness, cv2.CV_32F, 0, 1) / 8
    )

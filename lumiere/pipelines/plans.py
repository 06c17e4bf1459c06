"""Plans of a call: how a clip is split into windows, and the settings of super-resolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lumiere.diffusion.windows import (
    check_window_weights,
    independent_windows,
    tapered_weights,
    temporal_windows,
)
from lumiere.pipelines.argument_checks import check_range, check_whole, check_whole_or_none

# The defaults of every call and plan.
DEFAULT_SSR_STEPS = 8
# With a distilled base network. On the demo, whose windows have 8 frames, longer ones are as good,
# and most clips are one window then (docs/sampling.md).
FAST_SSR_STEPS, FAST_SSR_WINDOW_SIZE = 2, 16
DEFAULT_NOISE_LEVEL = 50
DEFAULT_OVERLAP = 2
DEFAULT_WINDOW_WEIGHTS = "mean"
DEFAULT_BATCH_SIZE = 4


def fast_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what changes in a pipeline's settings (`pipe.config`) with a distilled network."""
    return {
        "guidance_scale": 1.0,
        "ssr_steps": min(config["ssr_steps"], FAST_SSR_STEPS),
        "ssr_window_size": max(config["ssr_window_size"], FAST_SSR_WINDOW_SIZE),
    }


@dataclass(frozen=True)
class WindowPlan:
    """The windows of a clip, and how the predictions of a network for them become one.

    Attributes:
        num_frames: frames of the clip.
        window_size: frames of a window; a shorter clip is one window.
        overlap: frames that neighbouring windows share, 0 to window_size - 1.
        window_weights: how windows are reconciled where they overlap: "mean", as in the paper, or
            "tapered".
        multidiffusion: False for windows that share no frame, each denoised by itself.
        batch_size: windows in one forward pass; None for all.

    Raises:
        ValueError: outside these ranges.
    """

    num_frames: int
    window_size: int
    overlap: int
    window_weights: str = DEFAULT_WINDOW_WEIGHTS
    multidiffusion: bool = True
    batch_size: int | None = DEFAULT_BATCH_SIZE

    def __post_init__(self) -> None:
        check_whole(1, window_size=self.window_size)
        check_whole(0, overlap=self.overlap)
        temporal_windows(self.num_frames, self.window_size, self.overlap)  # checks their relation
        check_window_weights(self.window_weights)
        check_whole_or_none(batch_size=self.batch_size)

    @property
    def windows(self) -> list[tuple[int, int]]:
        """Half-open frame ranges that cover the clip."""
        if self.multidiffusion:
            return temporal_windows(self.num_frames, self.window_size, self.overlap)
        return independent_windows(self.num_frames, self.window_size)

    @property
    def weights(self) -> list[Tensor] | None:
        """A weight (t_i,) for each frame of each window; None for the mean."""
        return tapered_weights(self.windows) if self.window_weights == "tapered" else None


@dataclass(frozen=True)
class UpscalePlan:
    """A super-resolution; `LumiereUpscalePipeline.plan` makes one that suits its network.

    Attributes:
        size: height and width of the enlarged frames.
        num_inference_steps: denoising steps, at least 1.
        noise_level: the timestep to which the low resolution is noised; a higher level lets the
            network invent more.
        noise_correlation: between the noise of any two frames, 0 to 1.
        windows: how the clip goes through the network.

    Raises:
        ValueError: outside these ranges.
    """

    size: tuple[int, int]
    num_inference_steps: int
    noise_level: int
    noise_correlation: float
    windows: WindowPlan

    def __post_init__(self) -> None:
        check_whole(1, num_inference_steps=self.num_inference_steps)
        check_whole(0, noise_level=self.noise_level)
        check_range(0, 1, noise_correlation=self.noise_correlation)


def plan_base_windows(
    num_frames: int,
    trained_length: int,
    *,
    window_size: int | None = None,
    overlap: int | None = None,
    window_weights: str = DEFAULT_WINDOW_WEIGHTS,
    batch_size: int | None = DEFAULT_BATCH_SIZE,
) -> WindowPlan:
    """Plan the base model's windows.

    By default they are as long as the clips of training and share 2 frames. A clip up to that
    length is a single window, so the overlap does not matter.

    Args:
        num_frames: frames of the clip.
        trained_length: frames of the clips that the network was trained on.
        window_size, overlap: None for the default.
        window_weights, batch_size: as in `WindowPlan`.

    Raises:
        ValueError: if a value cannot be used.
    """
    if overlap is not None:
        check_whole(0, overlap=overlap)
    if window_size is None:
        window_size = trained_length
        if num_frames <= window_size:
            overlap = 0
    if overlap is None:
        overlap = min(DEFAULT_OVERLAP, window_size - 1)
    return WindowPlan(
        num_frames, window_size, overlap, window_weights=window_weights, batch_size=batch_size
    )

"""A pipeline's styles: spatial weights by name, blended into the text-to-image model for one call.

Blends are cached, and the network's own parameters are put back as the objects that they were.
"""

from __future__ import annotations

import re
import shutil
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from lumiere.models import SpaceTimeUNet
from lumiere.style import blend_style

FOLDER = "styles"
SUFFIX = ".safetensors"
CACHED_BLENDS = 4


class StyleBook:
    """Styles by name, read from file when first used."""

    def __init__(self) -> None:
        self._sources: dict[str, Path | Mapping[str, Tensor]] = {}
        self._blends: OrderedDict[tuple[Any, ...], dict[str, Tensor]] = OrderedDict()
        self._blended_for: weakref.ref[SpaceTimeUNet] | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._sources))

    def __len__(self) -> int:
        return len(self._sources)

    def __contains__(self, name: object) -> bool:
        return name in self._sources

    def add(self, name: str, weights: str | Path | Mapping[str, Tensor]) -> None:
        """Name a style.

        Args:
            name: letters, digits, - and _.
            weights: a safetensors file, or the state dict itself, of the T2I's UNet2DConditionModel.

        Raises:
            ValueError: on another name, or no such file.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(f"style name {name!r}; allowed: letters, digits, - and _")
        if isinstance(weights, (str, Path)):
            weights = Path(weights)
            if not weights.is_file():
                raise ValueError(f"style {name!r}: {weights}: no such file")
        self._sources[name] = weights
        self._blends.clear()

    def check(self, name: str, alpha: float) -> None:
        """Raises ValueError on an unknown style or an alpha outside [0, 1]."""
        if name not in self._sources:
            raise ValueError(f"style is {name!r}; this pipeline has: {', '.join(self) or 'none (see add_style)'}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}; allowed: 0 (no style) to 1")

    @contextmanager
    def applied(self, unet: SpaceTimeUNet, name: str, alpha: float) -> Iterator[None]:
        """Within, the spatial weights of `unet` are the blend; temporal weights are not touched."""
        spatial = unet.unet
        original = spatial.state_dict(keep_vars=True)
        spatial.load_state_dict(self._blend(unet, name, alpha), assign=True)
        try:
            yield
        finally:
            spatial.load_state_dict(original, assign=True)

    def save(self, folder: Path) -> None:
        """Write every style as `<folder>/<name>.safetensors`."""
        for name, source in self._sources.items():
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / f"{name}{SUFFIX}"
            if not isinstance(source, Path):
                save_file({key: value.contiguous() for key, value in source.items()}, target)
            elif source.resolve() != target.resolve():
                shutil.copyfile(source, target)

    def load(self, folder: Path) -> None:
        """Name every style that `save` wrote."""
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            self.add(path.stem, path)

    def _blend(self, unet: SpaceTimeUNet, name: str, alpha: float) -> dict[str, Tensor]:
        if self._blended_for is None or self._blended_for() is not unet:
            self._blends.clear()
            self._blended_for = weakref.ref(unet)
        key = (name, float(alpha), unet.dtype, unet.device)
        if key not in self._blends:
            original = unet.unet.state_dict()
            source = self._sources[name]
            style = load_file(source) if isinstance(source, Path) else source
            # Styles are kept in the precision that they were saved with; unknown keys are left to blend_style.
            style = {k: v.to(original[k]) if k in original else v for k, v in style.items()}
            try:
                self._blends[key] = blend_style(original, style, alpha)
            except ValueError as error:
                raise ValueError(f"style {name!r} does not fit this pipeline's text-to-image model: {error}") from None
            while len(self._blends) > CACHED_BLENDS:
                self._blends.popitem(last=False)
        self._blends.move_to_end(key)
        return self._blends[key]

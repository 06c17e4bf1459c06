"""A pipeline's styles: spatial weights by name, blended into the text-to-image model for one call.

A style is a safetensors file, or a mapping, of tensors by name, in any floating-point precision:

- all weights of the T2I's UNet2DConditionModel, by the names of its state dict; `train_style`
  writes them as `<style>.safetensors`;
- or a LoRA of it, by the names that `lumiere.style.merge_lora` takes; `train_style` writes it as
  `<style>.lora.safetensors`, which diffusers' pipelines read too. The LoRA is merged into the
  network's own weights when a blend is made.

The last blend is kept for the next call, until the style or the network's own weights change. After
a call, the network has its original parameter objects again.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.hooks.group_offloading import _is_group_offload_enabled
from safetensors.torch import save_file
from torch import Tensor

from lumiere.errors import DataError
from lumiere.models import SpaceTimeUNet
from lumiere.models.switches import has_fused_projections, remove_fused_layers
from lumiere.pipelines.argument_checks import check_range
from lumiere.style import STYLE_NAME, alpha_of, blend_file, blend_style, is_lora, merge_lora
from lumiere.tensor_files import read_metadata, read_tensors

FOLDER = "styles"
LORA_SETTINGS = "lora_adapter_metadata"  # of a file that diffusers wrote
Weights = Path | Mapping[str, Tensor]


class StyleBook:
    """Styles by name, each at one or more alphas; a file is read when it is used.

    The book keeps one blend in memory, on the device of the network.
    """

    def __init__(self) -> None:
        self._styles: dict[str, dict[float, Weights]] = {}
        # The sources of the last blend, and the blend itself.
        self._last: tuple[Hashable, dict[str, Tensor]] = ((), {})

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._styles))

    def __len__(self) -> int:
        return len(self._styles)

    def __contains__(self, name: object) -> bool:
        return name in self._styles

    def copy(self) -> StyleBook:
        """Copy the book, so that styles can be added to the copy alone."""
        book = StyleBook()
        book._styles = {name: dict(alphas) for name, alphas in self._styles.items()}
        return book

    def add(
        self, name: str, weights: str | Path | Mapping[str, Tensor], alpha: float = 1.0
    ) -> None:
        """Name a style, or one more of its blends.

        Args:
            name: letters, digits, - and _.
            weights: a safetensors file, or the tensors themselves: a T2I's UNet2DConditionModel, or
                a LoRA of it.
            alpha: the share of the style in the weights: 1 is the style itself, from which any
                blend can be made. A lower value marks a finished blend, which works only at that
                alpha.

        Raises:
            ValueError: if the name or alpha is not allowed, or the file does not exist.
        """
        if not (isinstance(name, str) and re.fullmatch(STYLE_NAME, name)):
            raise ValueError(f"style name {name!r}; allowed: letters, digits, - and _")
        check_range(0, 1, alpha=alpha)
        if isinstance(weights, (str, Path)):
            weights = Path(weights)
        _check_there(name, weights)
        self._styles.setdefault(name, {})[float(alpha)] = weights

    def alphas(self, name: str) -> list[float]:
        """Return the alphas at which a style was added, in ascending order."""
        return sorted(self._styles[name])

    def check(self, name: str, alpha: float) -> None:
        """Raise ValueError unless there is a style of this name that works at this alpha, 0 to
        1.
        """
        if not (isinstance(name, str) and name in self._styles):
            raise ValueError(
                f"style is {name!r}; this pipeline has: {', '.join(self) or 'none (see add_style)'}"
            )
        check_range(0, 1, alpha=alpha)
        alphas = self._styles[name]
        if not {float(alpha), 1.0} & alphas.keys():
            raise ValueError(
                f"alpha is {alpha}, but style {name!r} only has blends of alpha "
                f"{', '.join(map(str, sorted(alphas)))}; to use other values, add the style itself, "
                "alpha 1.0"
            )
        _check_there(name, self._source(name, float(alpha)))

    @contextmanager
    def applied(
        self, unet: SpaceTimeUNet, name: str, alpha: float, owner: str = "this pipeline"
    ) -> Iterator[None]:
        """While this context is open, the spatial weights of `unet` are the blend.

        Args:
            unet: the network.
            name, alpha: the style, and its share.
            owner: what `unet` belongs to, for messages.

        Raises:
            ValueError: if the style's file is broken or does not fit, or if accelerate holds the
                network's weights.
        """
        spatial = unet.unet
        if any(hasattr(module, "base_layer") for module in spatial.modules()):
            raise ValueError(
                f"style {name!r}: the image model of {owner} has adapters, which a style would "
                "replace; fuse or unload them (fuse_lora(), unload_lora_weights())"
            )
        if has_fused_projections(spatial):
            raise ValueError(
                f"style {name!r}: the image model of {owner} has fused projections, which a style "
                "would not change; call unfuse_qkv_projections() first"
            )
        remove_fused_layers(spatial)
        original = spatial.state_dict(keep_vars=True)
        if any(value.is_meta for value in original.values()):
            raise ValueError(
                f"style {name!r}: enable_sequential_cpu_offload() leaves no weights in the network "
                "to blend with; use enable_model_cpu_offload()"
            )
        if _is_group_offload_enabled(unet):
            raise ValueError(
                f"style {name!r}: enable_group_offload() moves weights that a style would replace; use "
                "enable_model_cpu_offload()"
            )
        source = (
            name,
            float(alpha),
            _state_of(original),
            _state_of(self._source(name, float(alpha))),
        )
        if self._last[0] != source:
            self._last = ((), {})  # frees the blend before the next is made
            blend = self._blend(spatial.state_dict(), name, float(alpha), owner)
            # Blends use the memory layout of the originals: the network is fastest with it, and the
            # last bits stay the same.
            laid_out = {
                key: torch.empty_like(original[key]).copy_(value) for key, value in blend.items()
            }
            self._last = (source, laid_out)
        spatial.load_state_dict(self._last[1], assign=True)
        try:
            yield
        finally:
            spatial.load_state_dict(original, assign=True)

    def save(self, folder: Path) -> None:
        """Write all weights under the names of `lumiere.style.blend_file`; delete other styles
        there.

        New files are written beside the old ones first, with the suffix .new, because they may
        replace a style's own file.
        """
        kept: set[Path] = set()
        aside: dict[Path, Path] = {}
        try:
            for name, alpha, weights in self._entries():
                target = folder / blend_file(name, alpha)
                if isinstance(weights, Path) and weights.resolve() == target.resolve():
                    kept.add(target)
                else:
                    aside[target] = target.with_suffix(".new")
                    _write(weights, aside[target])
        except BaseException:
            for path in aside.values():
                path.unlink(missing_ok=True)
            raise
        # From here on the new files may be the only copies.
        moved = [entry for entry in self._entries() if _lies_in(folder, entry[2])]
        for path in set(folder.rglob("*.safetensors")) - kept:
            path.unlink()
        for target, path in aside.items():
            path.replace(target)
        for name, alpha, _ in moved:
            self._styles[name][alpha] = folder / blend_file(name, alpha)

    def load(self, folder: Path) -> None:
        """Add all weights that `save`, or the stage `blend_style`, wrote.

        Raises:
            ValueError: if a file has another name.
        """
        for path in sorted(folder.rglob("*.safetensors")):
            self.add(path.parent.name, path, alpha_of(path))

    def _entries(self) -> list[tuple[str, float, Weights]]:
        return [
            (name, alpha, weights)
            for name, alphas in self._styles.items()
            for alpha, weights in alphas.items()
        ]

    def _source(self, name: str, alpha: float) -> Weights:
        """Return the weights from which a blend is made: the finished blend of this alpha, if
        there is one, or the style.
        """
        alphas = self._styles[name]
        return alphas[alpha if alpha in alphas else 1.0]

    def _blend(
        self, original: Mapping[str, Tensor], name: str, alpha: float, owner: str
    ) -> dict[str, Tensor]:
        finished = alpha in self._styles[name]
        weights = self._source(name, alpha)
        style = _read(weights) if isinstance(weights, Path) else weights
        try:
            if is_lora(style):
                style = merge_lora(original, style)
            # A style keeps the precision that it was saved in. blend_style refuses unknown keys.
            converted = dict(style)
            for key in style.keys() & original.keys():
                converted[key] = style[key].to(original[key])
            return blend_style(original, converted, 1.0 if finished else alpha)
        except ValueError as error:
            raise ValueError(
                f"style {name!r} does not fit the text-to-image model of {owner}: {error}"
            ) from None


def _lies_in(folder: Path, weights: Weights) -> bool:
    return isinstance(weights, Path) and folder.resolve() in weights.resolve().parents


def _write(weights: Weights, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(weights, Path):
        shutil.copyfile(weights, path)
    else:
        save_file({key: value.contiguous() for key, value in weights.items()}, path)


def _read(path: Path) -> dict[str, Tensor]:
    """Read a style's file.

    Raises:
        ValueError: if the file is broken, or holds a LoRA with a scale other than 1. Diffusers
            stores that scale beside the tensors.
    """
    text = read_metadata(path).get(LORA_SETTINGS, "{}")
    try:
        stored = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        problem = f"{path}: its metadata {LORA_SETTINGS} is not a JSON object"
        raise DataError(problem, cure="save the LoRA again with diffusers") from None
    settings = {key.removeprefix("unet."): value for key, value in stored.items()}
    scaled = [key for key in ("use_rslora", "alpha_pattern", "rank_pattern") if settings.get(key)]
    if scaled or settings.get("lora_alpha") != settings.get("r"):
        raise ValueError(
            f"{path}: its LoRA has a scale of its own ({', '.join(scaled) or 'lora_alpha'}); "
            "allowed: 1"
        )
    return read_tensors(path)


def _state_of(weights: Weights) -> Hashable:
    """Return a value that changes when the weights change, without copying them.

    The value includes sums, because a change through `tensor.data` does not raise a tensor's
    version, and tensors made in inference mode have no version.
    """
    if isinstance(weights, Path):
        stat = weights.stat()
        return weights, stat.st_mtime_ns, stat.st_size, stat.st_ino
    descriptions = []
    for tensor in weights.values():
        version = None if tensor.is_inference() else tensor._version
        descriptions.append((id(tensor), version, tensor.dtype, str(tensor.device)))
    return tuple(descriptions), tuple(_sums(list(weights.values())))


def _sums(tensors: Sequence[Tensor]) -> list[float]:
    """Compute the sum of each tensor, device by device; in float64 if the device supports it."""
    sums: list[float] = []
    for device in sorted({str(tensor.device) for tensor in tensors}):
        dtype = torch.float32 if device.startswith("mps") else torch.float64
        on_device = [tensor for tensor in tensors if str(tensor.device) == device]
        # Transfer the sums of a device all at once.
        sums += torch.stack([tensor.detach().sum(dtype=dtype) for tensor in on_device]).tolist()
    return sums


def _check_there(name: str, weights: Weights) -> None:
    if isinstance(weights, Path) and not weights.is_file():
        raise ValueError(f"style {name!r}: {weights}: no such file")

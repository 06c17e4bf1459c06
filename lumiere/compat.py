"""Make a CUDA build of torchvision importable beside a CPU build of torch.

Package registries carry one torchvision, built for CUDA. Next to a CPU torch its compiled operators cannot
be loaded, and its import fails with "operator torchvision::nms does not exist", which takes open_clip and
half of transformers and diffusers with it. Nothing in this project calls those operators; declaring the two
names before the first torchvision import is enough. Where torchvision is whole this module does nothing.

Import it before diffusers, transformers or open_clip.
"""

from __future__ import annotations

import importlib.util
import os
import sys

import torch

# Kept alive for the process: a library object that is collected takes its operators with it.
_library: torch.library.Library | None = None


def _operators_load(folder: str) -> bool:
    """Whether torchvision's compiled operators can be loaded into this torch."""
    for name in sorted(os.listdir(folder)):
        if name.startswith("_C") and name.endswith((".so", ".pyd", ".dylib")):
            try:
                torch.ops.load_library(os.path.join(folder, name))
            except OSError:
                return False
            return True
    return False


def declare_missing_operators() -> None:
    """Declare `torchvision::nms` and `torchvision::qnms` where torchvision's own are not loadable."""
    global _library
    if _library is not None or "torchvision" in sys.modules:
        return
    spec = importlib.util.find_spec("torchvision")
    if (
        spec is None
        or not spec.submodule_search_locations
        or _operators_load(spec.submodule_search_locations[0])
    ):
        return
    _library = torch.library.Library("torchvision", "DEF")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


declare_missing_operators()

"""Make a CUDA build of torchvision importable beside a CPU build of torch.

Package registries carry a single torchvision, built for CUDA. A CPU torch cannot load its compiled
operators, so its import fails with "operator torchvision::nms does not exist". Then open_clip and
half of transformers and diffusers cannot be imported either. Nothing in this project calls those
operators, so it is enough to declare the two names before the first import of torchvision. Where
torchvision works, this module does nothing.

Every package that uses diffusers, transformers or open_clip imports this module in its
`__init__.py`, which runs before any of the package's modules.
"""

from __future__ import annotations

import importlib.util
import os
import sys

import torch

# The library object is kept for the life of the process, because its operators disappear when it is
# collected.
_library: torch.library.Library | None = None


def _operators_load(folder: str) -> bool:
    """Return whether torchvision's compiled operators can be loaded into this torch."""
    for name in sorted(os.listdir(folder)):
        if name.startswith("_C") and name.endswith((".so", ".pyd", ".dylib")):
            try:
                torch.ops.load_library(os.path.join(folder, name))
            except OSError:
                return False
            return True
    return False


def declare_missing_operators() -> None:
    """Declare `torchvision::nms` and `torchvision::qnms` where torchvision's own cannot be loaded."""
    global _library
    if _library is not None or "torchvision" in sys.modules:
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return
    if _operators_load(spec.submodule_search_locations[0]):
        return
    _library = torch.library.Library("torchvision", "DEF")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


declare_missing_operators()

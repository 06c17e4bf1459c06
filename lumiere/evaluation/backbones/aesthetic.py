"""LAION's aesthetic head: a linear layer on the image features of CLIP ViT-L/14."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lumiere.errors import DataError
from lumiere.evaluation.backbones.weight_files import Weights, check_file, read_state_dict
from lumiere.tensor_files import read_tensors

CLIP = "open_clip_vit_l_14"  # the backbone that the head was trained on


@dataclass(frozen=True)
class AestheticHead:
    """Holds the linear layer, and the file that it came from.

    Attributes:
        weight: the factors of the features, float64 (768,).
        bias: the number added to the product.
        weights: the file, and its hash.
    """

    weight: np.ndarray
    bias: float
    weights: Weights


def load_aesthetic_head(path: str | Path) -> AestheticHead:
    """Load the file sa_0_4_vit_l_14_linear.pth, which VBench uses, or its tensors as safetensors.

    Raises:
        DataError: if the file is missing, damaged, or holds another layer.
    """
    path = Path(path)
    weights = check_file(path, None, advice="give LAION's sa_0_4_vit_l_14_linear.pth")
    is_safe = path.suffix == ".safetensors"
    state = read_tensors(path) if is_safe else read_state_dict(path)
    if set(state) != {"weight", "bias"} or state["bias"].numel() != 1:
        raise DataError(
            f"{path}: not an aesthetic head: it holds {', '.join(sorted(state)) or 'nothing'}; "
            "expected one weight and one bias"
        )
    weight, bias = state["weight"].double().reshape(-1).numpy(), float(state["bias"].double())
    if not (np.isfinite(weight).all() and np.isfinite(bias)):
        raise DataError(
            f"{path}: the aesthetic head holds NaN or infinite values", cure="get the file again"
        )
    return AestheticHead(weight, bias, weights)

"""Starting a training from temporal weights that were trained before, in whole or for the grown input alone."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from lumiere.models import SpaceTimeUNet
from lumiere.models.stunet import TEMPORAL_FILE

INPUT_LAYER = "conv_in_conditioning."


def warm_start(unet: SpaceTimeUNet, folder: str | Path, input_only: bool) -> None:
    """Copy temporal weights from a folder written by `save_temporal` into `unet`.

    One folder serves both trainings: a conditioned network with nothing known is a text-only network, because the
    added input convolution has no bias.

    Args:
        unet: what is to be trained.
        folder: the weights.
        input_only: True copies the added input convolution and nothing else; False everything but it.

    Raises:
        ValueError: when the file is missing, or does not fit, naming the layer.
    """
    path = Path(folder) / TEMPORAL_FILE
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; expected a folder written by SpaceTimeUNet.save_temporal, or an empty value"
        )
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file: {error}") from None
    loaded = {name: value for name, value in weights.items() if name.startswith(INPUT_LAYER) == input_only}
    own = {name: v for name, v in unet.temporal_state_dict().items() if name.startswith(INPUT_LAYER) == input_only}
    for name in sorted(set(loaded) ^ set(own)):
        raise ValueError(f"{path}: layer {name!r} is {'unexpected' if name in loaded else 'missing'}")
    for name, value in own.items():
        if loaded[name].shape != value.shape:
            raise ValueError(f"{path}: layer {name!r} has shape {tuple(loaded[name].shape)}, not {tuple(value.shape)}")
    unet.load_state_dict(loaded, strict=False)

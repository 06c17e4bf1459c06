"""Networks: the Space-Time U-Net, and the image networks that it inflates."""

import lumiere.compat  # noqa: F401  before diffusers
from lumiere.models.stunet import SpaceTimeUNet, SpaceTimeUNetOutput, layers_in_order

__all__ = ["SpaceTimeUNet", "SpaceTimeUNetOutput", "layers_in_order"]

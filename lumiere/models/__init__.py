"""Networks."""

import lumiere.compat  # noqa: F401  before diffusers
from lumiere.models.stunet import SpaceTimeUNet, SpaceTimeUNetOutput

__all__ = ["SpaceTimeUNet", "SpaceTimeUNetOutput"]

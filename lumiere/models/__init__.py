"""Networks."""

from lumiere.models.stunet import SpaceTimeUNet, SpaceTimeUNetOutput

__all__ = ["SpaceTimeUNet", "SpaceTimeUNetOutput"]

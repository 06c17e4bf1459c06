"""Diffusion: the training objective, sampling, and windows over time."""

import lumiere.compat  # noqa: F401  before diffusers

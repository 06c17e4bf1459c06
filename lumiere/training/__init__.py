"""Training: one loop, and what is trained with it."""

import lumiere.compat  # noqa: F401  before diffusers

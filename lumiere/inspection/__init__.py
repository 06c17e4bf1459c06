"""Computes the parameters, memory and FLOPs of the networks of a params file, without building
them.
"""

import lumiere.compat  # noqa: F401  before diffusers

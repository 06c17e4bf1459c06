"""What a params file's networks need, before any of them is built: parameters, memory, arithmetic."""

import lumiere.compat  # noqa: F401  before diffusers

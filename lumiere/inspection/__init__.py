"""The parameters, memory and arithmetic of a params file's networks, known before any of them is
built.
"""

import lumiere.compat  # noqa: F401  before diffusers

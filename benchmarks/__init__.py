"""Speed and memory against peers, in one run each; see docs/performance.md."""

import lumiere.compat  # noqa: F401  before diffusers

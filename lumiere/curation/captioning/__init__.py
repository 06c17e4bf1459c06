"""Captions of clips by a model of transformers."""

import lumiere.compat  # noqa: F401  before transformers

"""Writes captions of clips with a model of transformers."""

import lumiere.compat  # noqa: F401  before transformers

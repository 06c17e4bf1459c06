"""Helpers that loaders of transformers' models share, in packages that may not import each other."""

import lumiere.compat  # noqa: F401  before transformers

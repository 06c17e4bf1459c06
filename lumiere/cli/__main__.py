"""`python -m lumiere.cli` is the command `lumiere`."""

from __future__ import annotations

from lumiere.cli.app import app

app()

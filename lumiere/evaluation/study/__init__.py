"""Tests whether each score notices damage: real clips are degraded step by step."""

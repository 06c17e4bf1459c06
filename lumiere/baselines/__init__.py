"""Baselines that `benchmarks/baselines.py` compares the product with; no stage imports them."""

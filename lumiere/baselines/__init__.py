"""What the product is compared with, by `benchmarks/baselines.py` alone; no stage imports it."""

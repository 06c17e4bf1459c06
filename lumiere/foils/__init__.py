"""What the product is compared with, by `benchmarks/foils.py` alone; no stage imports it."""

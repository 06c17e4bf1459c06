"""Baselines for `benchmarks/baselines.py`, which compares them with the product; no stage
imports them.
"""

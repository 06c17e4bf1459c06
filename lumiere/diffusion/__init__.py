"""Diffusion: the training objective, sampling, and windows over time."""

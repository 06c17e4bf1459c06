"""Turns a folder of raw videos into a manifest in which every input has scores, a verdict and a reason."""

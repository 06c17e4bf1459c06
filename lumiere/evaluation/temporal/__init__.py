"""Measures of change over time: consistency, motion, spectra, drift and seams."""

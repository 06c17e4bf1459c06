"""What changes over time: consistency, motion, spectra, drift and seams."""

"""From a folder of raw videos to a manifest: every input with its scores, a verdict and a reason."""

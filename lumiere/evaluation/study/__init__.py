"""Does the measure see? Scores of real clips that are degraded step by step."""

"""Training: one loop, and what is trained with it."""

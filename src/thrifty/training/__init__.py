"""Training: one loop, its optimizers and losses, and the recovery after a cut."""

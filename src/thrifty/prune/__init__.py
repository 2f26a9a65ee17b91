"""Scores to masks: pure functions on named tensors."""

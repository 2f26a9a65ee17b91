"""Experiments: a recipe becomes steps, steps become records, records become a front."""

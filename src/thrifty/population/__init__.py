"""Populations: many models of one architecture as one stack, trained together."""

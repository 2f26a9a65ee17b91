"""Which channels of a network live and die together, and removing them for real."""

"""Channels by lot, really removed: what a method that removes channels must beat."""

from thrifty.pruning.methods import METHODS, Method

METHODS.add(
    "random_filter",
    Method(
        criterion="random",
        allocation="uniform",
        schedule="one_shot",
        removes="channels",
        tied=False,
        about="channels by lot, the same share of every layer: the baseline of every front",
        source="Blalock et al., What is the State of Neural Network Pruning?, 2020, "
        "https://arxiv.org/abs/2003.03033",
    ),
)

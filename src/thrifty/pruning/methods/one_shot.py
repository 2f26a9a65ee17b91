"""Magnitude pruning in one cut: every level is cut from the dense parent itself."""

from thrifty.pruning.methods import METHODS, Method

METHODS.add(
    "one_shot",
    Method(
        schedule="one_shot",
        about="smallest weights, every level in one cut from the dense parent, then retrained",
        source="Han et al., Learning both Weights and Connections, 2015, "
        "https://arxiv.org/abs/1506.02626 (its one-pass variant)",
    ),
)

"""Magnitude pruning of single weights, in steps, each from the retrained network before it."""

from thrifty.pruning.methods import METHODS, Method

METHODS.add(
    "magnitude",
    Method(
        about="smallest weights first, level by level, each cut from the retrained level before",
        source="Han et al., Learning both Weights and Connections, 2015, "
        "https://arxiv.org/abs/1506.02626; allocation: Lee et al., LAMP, 2021, "
        "https://arxiv.org/abs/2010.07611",
    ),
)

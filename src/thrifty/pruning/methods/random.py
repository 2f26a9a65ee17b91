"""Random pruning with the same steps and epochs: what a method must beat to be one."""

from thrifty.pruning.methods import METHODS, Method

METHODS.add(
    "random",
    Method(
        criterion="random",
        allocation="erk",
        about="weights by lot, level by level like magnitude: the baseline of every front",
        source="Blalock et al., What is the State of Neural Network Pruning?, 2020, "
        "https://arxiv.org/abs/2003.03033; allocation: Evci et al., RigL, 2020, "
        "https://arxiv.org/abs/1911.11134",
    ),
)

"""Gradual magnitude pruning: the sparsity grows with the cube of the time while training."""

from thrifty.pruning.methods import METHODS, Method

METHODS.add(
    "gradual",
    Method(
        schedule="cubic",
        about="smallest weights, a little at a time while the network trains (cubic ramp)",
        source="Zhu & Gupta, To prune, or not to prune, 2017, https://arxiv.org/abs/1710.01878",
    ),
)

"""Filters with the smallest L1 norm of each layer, really removed, in one cut."""

from thrifty.pruning.methods import METHODS, Method

METHODS.add(
    "l1_filter",
    Method(
        criterion="magnitude",
        allocation="uniform",
        schedule="one_shot",
        removes="channels",
        tied=False,
        about="filters of the smallest L1 norm, the same share of every layer, really removed",
        source="Li et al., Pruning Filters for Efficient ConvNets, 2017, "
        "https://arxiv.org/abs/1608.08710",
    ),
)

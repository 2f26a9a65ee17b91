"""Filters with the smallest L1 norm of all layers, beside the mean of what their layer keeps."""

from thrifty.pruning.methods import METHODS, Method

METHODS.add(
    "l1_global",
    Method(
        criterion="magnitude",
        allocation="global?floor=0.1",
        schedule="one_shot",
        removes="channels",
        members=("out", "in", "scale"),
        relative=True,
        tied=False,
        about="filters of the smallest L1 norm over all layers, beside the mean of their layer's",
        source="Li et al., Pruning Filters for Efficient ConvNets, 2017, "
        "https://arxiv.org/abs/1608.08710; means renewed unit by unit as in Fang et al., DepGraph, "
        "2023, https://arxiv.org/abs/2301.12900",
    ),
)

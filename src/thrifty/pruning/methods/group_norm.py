"""Channels whose whole group has the smallest norm, after regularisation has shrunk it further."""

from thrifty.pruning.methods import METHODS, Method

METHODS.add(
    "group_norm",
    Method(
        criterion="energy",
        allocation="global?floor=0.1",
        schedule="one_shot",
        removes="channels",
        members=("out", "in", "scale", "each"),
        gate="group_growth",
        about="channels of the smallest norm over all layers they touch, shrunk before the cut",
        source="Fang et al., DepGraph: Towards Any Structural Pruning, 2023, "
        "https://arxiv.org/abs/2301.12900",
    ),
)

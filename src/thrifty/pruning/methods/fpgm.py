"""Filters nearest to the geometric median of their layer, really removed."""

from thrifty.pruning.methods import METHODS, Method

METHODS.add(
    "fpgm",
    Method(
        criterion="fpgm",
        allocation="uniform",
        schedule="one_shot",
        removes="channels",
        tied=False,
        about="filters that the others of their layer can replace (geometric median), removed",
        source="He et al., Filter Pruning via Geometric Median, 2019, "
        "https://arxiv.org/abs/1811.00250",
    ),
)

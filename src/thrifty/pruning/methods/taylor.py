"""Channels that the loss would miss least, to first order, really removed level by level."""

from thrifty.pruning.methods import METHODS, Method

METHODS.add(
    "taylor",
    Method(
        criterion="taylor",
        allocation="global?floor=0.1",
        schedule="iterative",
        removes="channels",
        members=("out", "scale"),
        about="channels the loss misses least (gradient times weight, squared), level by level",
        source="Molchanov et al., Importance Estimation for Neural Network Pruning, 2019, "
        "https://arxiv.org/abs/1906.10771",
    ),
)

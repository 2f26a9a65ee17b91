"""Magnitude: keep the weights that are far from zero."""

from torch import Tensor

from thrifty.pruning.criteria import criterion
from thrifty.pruning.layers import Layer


@criterion("magnitude")
def magnitude(layer: Layer) -> Tensor:
    """Score every weight by its absolute value, |w|.

    Pooled over filters this orders filters as their L1 norm does.

    Args:
        layer: its ``weight``, of shape (out, in, *kernel), is used.

    Returns:
        Scores of the shape of the weight; the unit is that of the weight.

    References:
        Han et al., Learning both Weights and Connections, 2015, https://arxiv.org/abs/1506.02626
        Li et al., Pruning Filters for Efficient ConvNets, 2017, https://arxiv.org/abs/1608.08710
    """
    return layer.weight.abs()

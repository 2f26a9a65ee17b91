"""Distance to the other filters: what lies near them all can be replaced by them."""

from torch import Tensor

from thrifty.pruning.criteria import criterion
from thrifty.pruning.layers import Layer


@criterion("fpgm")
def fpgm(layer: Layer) -> Tensor:
    """Score every filter by the sum of its Euclidean distances to all filters of the layer.

    Args:
        layer: its ``weight`` (out, in, *kernel) is used.

    Returns:
        Scores of the shape of the weight, equal for all weights of a filter, whose sum over the
        filter is the distance, in units of the weight.

    References:
        He et al., Filter Pruning via Geometric Median, 2019, https://arxiv.org/abs/1811.00250
        (equation 4)
    """
    weight = layer.weight
    flat = weight.reshape(weight.shape[0], -1).double()
    gram = flat @ flat.T  # in double, for near filters are the difference of large numbers
    square = gram.diagonal()
    distances = (square[:, None] + square[None, :] - 2 * gram).clamp_min(0).sqrt().sum(1)
    each = (distances / flat.shape[1]).to(weight.dtype)
    return each.reshape(-1, *[1] * (weight.dim() - 1)).expand_as(weight)

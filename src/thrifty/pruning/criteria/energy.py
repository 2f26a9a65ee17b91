"""Energy: the square of every weight, which adds up to squared norms of filters and groups."""

from torch import Tensor

from thrifty.pruning.criteria import criterion
from thrifty.pruning.layers import Layer


@criterion("energy")
def energy(layer: Layer) -> Tensor:
    """Score every weight by w^2; for single weights the order is that of magnitude.

    Args:
        layer: its ``weight`` (out, in, *kernel) is used.

    Returns:
        Scores of the shape of the weight, in squared units of the weight.

    References:
        Fang et al., DepGraph: Towards Any Structural Pruning, 2023,
        https://arxiv.org/abs/2301.12900 (equation 4, the norm of a group)
    """
    return layer.weight.square()

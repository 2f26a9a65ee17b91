"""Random: keep weights by lot, the baseline that every criterion must beat."""

from torch import Tensor

from thrifty.pruning.criteria import criterion
from thrifty.pruning.layers import Layer


@criterion("random", needs=("noise",))
def random(layer: Layer) -> Tensor:
    """Score every weight by a uniform random number that the seed and the layer's name decide.

    Args:
        layer: its ``noise``, of the shape of the weight, is used.

    Returns:
        Scores in [0, 1), of the shape of the weight; no unit.

    References:
        Blalock et al., What is the State of Neural Network Pruning?, 2020,
        https://arxiv.org/abs/2003.03033 (why a random baseline belongs on every front)
    """
    assert layer.noise is not None
    return layer.noise

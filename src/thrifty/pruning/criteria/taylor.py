"""Taylor: keep what the loss would miss most, to first order, over many batches."""

from torch import Tensor

from thrifty.pruning.criteria import criterion
from thrifty.pruning.layers import Layer


@criterion("taylor", needs=("grad_square",))
def taylor(layer: Layer) -> Tensor:
    """Score every weight by the mean over batches of (g * w)^2.

    The square is taken before the mean, so that gradients which cancel over the data, as they do
    in a trained network, still count.  Summed over a filter it is the importance of the channel.

    Args:
        layer: ``weight`` and ``grad_square``, both of shape (out, in, *kernel), are used.

    Returns:
        Scores of the shape of the weight, in squared units of the loss.

    References:
        Molchanov et al., Importance Estimation for Neural Network Pruning, 2019,
        https://arxiv.org/abs/1906.10771 (equations 4 and 8)
    """
    assert layer.grad_square is not None
    return layer.grad_square * layer.weight.square()

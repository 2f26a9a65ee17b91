"""Saliency: keep the weights whose removal would change the loss most, to first order."""

from torch import Tensor

from thrifty.pruning.criteria import criterion
from thrifty.pruning.layers import Layer


@criterion("saliency", needs=("grad",))
def saliency(layer: Layer) -> Tensor:
    """Score every weight by |g * w|, the first-order change of the loss when it becomes zero.

    Args:
        layer: ``weight`` and ``grad``, both of shape (out, in, *kernel), are used.

    Returns:
        Scores of the shape of the weight, in units of the loss.

    References:
        Mozer & Smolensky, Skeletonization, 1988; Lee et al., SNIP, 2019,
        https://arxiv.org/abs/1810.02340 (equation 5, without its normalisation)
    """
    assert layer.grad is not None
    return (layer.grad * layer.weight).abs()

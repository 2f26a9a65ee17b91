"""Soft thresholds that are learnt, one a layer: weights under it are zero, the others shrink by it.

The threshold is sigmoid(s).  Weight decay on s pulls it towards sigmoid(0) = 0.5, the loss pulls
it back as far as the layer needs its weights.  A training spares gates from its weight decay, so
the decay of s is the penalty of this gate, and ``strength`` is its coefficient.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.pruning.gates import GATES, Gate
from thrifty.pruning.gates.forwards import (
    computed,
    empty,
    finite,
    learnt,
    put_back,
    put_in,
    used,
    variables,
    weight_of,
)
from thrifty.pruning.gates.placing import listed, weight_name, weight_places
from thrifty.pruning.gates.shrinkage import number

_NAME = "s"


@GATES.entry("str")
class SoftThreshold(Gate):
    """Soft threshold reparametrisation: a threshold for every layer, learnt with the weights.

    A layer computes with sign(w) * relu(|w| - sigmoid(s)).  Scores are |w| - sigmoid(s), the shape
    of the weight; those above 0 are the size that the weight has after ``fold``, and a threshold
    is such a size, 0 as published.  Which sparsity comes out is decided by ``strength``, ``init``
    and how long is trained; for a given one, cut by the scores.

    Args:
        strength: weight decay of s, 0 or more; strength / 2 * s^2 is added to the loss.
        init: where s begins; the first threshold is sigmoid(init).
        keep: patterns of layers that are left alone; in a text, separated by commas.

    References:
        Kusupati et al., Soft Threshold Weight Reparameterization for Learnable Sparsity, 2020,
        https://arxiv.org/abs/2002.03231
    """

    unit = "weight"

    def __init__(
        self,
        *,
        strength: float = 5e-4,
        init: float = -5.0,
        keep: Sequence[str] | str = (),
    ):
        self.strength = number("strength", strength, least=0.0)
        self.init = number("init", init, least=-1e5)
        self.keep = listed(keep)

    def attach(self, model: nn.Module) -> None:
        """In place: a parameter ``weight_gate.s``, of no dimension, in every gated layer.

        Raises:
            UserError: no layer can be gated, or one is already.
        """
        empty(model)
        put_in(weight_places(model, self.keep), self._begin, _forward)

    def _begin(self, module: nn.Module) -> dict[str, Tensor]:
        return {_NAME: module.get_parameter("weight").new_full((), self.init)}

    def variables(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """s of every layer."""
        return variables(model)

    def penalty(self, model: nn.Module, progress: float) -> Tensor | None:
        """strength / 2 * the sum of s^2: weight decay, of which a training spares gates."""
        if not self.strength:
            return None
        every = torch.stack([_s(m) for m in used(model).values()])
        return 0.5 * self.strength * every.square().sum()

    def scores(self, model: nn.Module) -> dict[str, Tensor]:
        """Name of a weight -> |w| - sigmoid(s), the shape of the weight.

        Raises:
            UserError: a weight or an s is NaN.
        """
        found = {}
        for name, module in used(model).items():
            size = finite(name, module.get_parameter("weight"), "the weight").abs()
            threshold = finite(name, _s(module), "s")
            found[weight_name(name)] = size - threshold.sigmoid()
        return found

    def cutoff(self, threshold: float) -> float:
        """The threshold itself: the size above which a weight stays once the gate is folded.

        Raises:
            UserError: no number of 0 or more.
        """
        if number("threshold", threshold, least=0.0) > 1e6:
            raise UserError(
                f"the gate has threshold={threshold:g}; it is the size of a weight, 0 keeps all "
                f"that the gate has left"
            )
        return float(threshold)

    @torch.no_grad()
    def fold(self, model: nn.Module) -> None:
        """In place: write the thresholded weights, and take the thresholds out.

        Raises:
            UserError: a weight or an s is NaN.
        """
        self.scores(model)
        for module in used(model).values():
            weight = module.get_parameter("weight")
            weight.copy_(soft(weight, _s(module).sigmoid()))
        put_back(model)


def soft(weight: Tensor, threshold: Tensor) -> Tensor:
    """sign(w) * relu(|w| - threshold): ``weight`` moved towards zero by ``threshold``.

    What is nearer is exactly +0.0, and no gradient reaches it.

    Example:
        >>> soft(torch.tensor([0.75, -0.5, 0.125]), torch.tensor(0.25))
        tensor([ 0.5000, -0.2500,  0.0000])
    """
    return weight - torch.clamp(weight, -threshold, threshold)


def _s(module: nn.Module) -> nn.Parameter:
    found = learnt(module)[_NAME]
    assert found is not None
    return found


def _forward(module: nn.Module, inputs: Tensor) -> Tensor:
    """The forward of a gated layer."""
    weight = soft(weight_of(module), _s(module).sigmoid())
    bias = module.bias if isinstance(module.bias, Tensor) else None
    return computed(module, inputs, weight, bias)

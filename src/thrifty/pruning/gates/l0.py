"""L0 regularisation: gates that are drawn open or shut, and a price on each that is open.

A layer computes with w * z, z drawn anew every step in training and without noise in eval mode.
``l0_channels`` has the same on output channels.
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
from thrifty.pruning.gates.hard_concrete import chance, sampled, settled
from thrifty.pruning.gates.placing import listed, weight_name, weight_places
from thrifty.pruning.gates.shrinkage import number

_NAME = "log_alpha"


class Priced(Gate):
    """What both have in common: options, where gates begin, and what a threshold is."""

    def __init__(self, strength: float, rate: float, inputs: int | None, keep: Sequence[str] | str):
        self.strength = number("strength", strength, least=0.0)
        if not 0 < number("rate", rate, least=0.0) < 1:
            raise UserError(f"the gate has rate={rate:g}; give a share between 0 and 1")
        self.rate = float(rate)
        self.inputs = None if inputs is None else number("inputs", inputs, least=1.0)
        self.keep = listed(keep)

    def _known(self) -> None:
        """Refuse to begin without the number of inputs."""
        if self.inputs is None:
            raise UserError(
                "l0 weighs its penalty by 1 / training inputs and was not told how many there "
                "are; give inputs=..."
            )

    def _begin(self, like: Tensor) -> Tensor:
        """Gates in the layout of ``like``, shut with probability ``rate``."""
        return torch.full_like(like.detach(), 1 - self.rate).logit()

    def _penalty(self, terms: list[Tensor]) -> Tensor | None:
        if not self.strength:
            return None
        assert self.inputs is not None
        return self.strength / self.inputs * torch.stack(terms).sum()

    def cutoff(self, threshold: float) -> float:
        """The threshold itself: units stay whose P(z != 0) is above it.

        Raises:
            UserError: outside 0..1.
        """
        if number("threshold", threshold, least=0.0) > 1:
            raise UserError(
                f"the gate has threshold={threshold:g}; it is a probability, from 0 to 1, and 0.5 "
                f"is usual"
            )
        return float(threshold)


@GATES.entry("l0")
class L0(Priced):
    """L0 on single weights, by hard concrete gates.

    Scores are P(z != 0), the shape of the weight; a threshold is such a probability, 0.5 as
    usual.  In eval mode and after ``fold`` a weight is zero where P(z != 0) is 0.31 or less.

    Args:
        strength: price of a weight, 0 or more; strength / inputs * the expected number of
            weights that are not zero is added to the mean loss, as in the paper (0.1 for LeNet-5).
        rate: chance of a gate to be shut where training begins; small for a trained network.
        inputs: number of training inputs.
        keep: patterns of layers that are left alone; in a text, separated by commas.

    References:
        Louizos et al., Learning Sparse Neural Networks through L0 Regularization, 2018,
        https://arxiv.org/abs/1712.01312
    """

    unit = "weight"

    def __init__(
        self,
        *,
        strength: float = 0.1,
        rate: float = 0.1,
        inputs: int | None = None,
        keep: Sequence[str] | str = (),
    ):
        super().__init__(strength, rate, inputs, keep)

    def attach(self, model: nn.Module) -> None:
        """In place: a parameter ``weight_gate.log_alpha`` like the weight in every gated layer.

        Raises:
            UserError: no layer can be gated, one is already, or ``inputs`` is not known.
        """
        self._known()
        empty(model)
        put_in(
            weight_places(model, self.keep),
            lambda module: {_NAME: self._begin(module.get_parameter("weight"))},
            _forward,
        )

    def variables(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The locations of the gates."""
        return variables(model)

    def penalty(self, model: nn.Module, progress: float) -> Tensor | None:
        """strength / inputs * the expected number of weights that are not zero."""
        return self._penalty([chance(_location(m)).sum() for m in used(model).values()])

    def scores(self, model: nn.Module) -> dict[str, Tensor]:
        """Name of a weight -> P(z != 0) of each, the shape of the weight; 0 where w is zero.

        Raises:
            UserError: a gate is NaN.
        """
        found = {}
        for name, module in used(model).items():
            open_ = chance(finite(name, _location(module), "the gates"))
            found[weight_name(name)] = open_.masked_fill(module.get_parameter("weight") == 0, 0.0)
        return found

    @torch.no_grad()
    def fold(self, model: nn.Module) -> None:
        """In place: multiply the weights by the gates, without noise, and take these out.

        Raises:
            UserError: a gate is NaN.
        """
        self.scores(model)
        for module in used(model).values():
            module.get_parameter("weight").mul_(settled(_location(module))).add_(0.0)  # no -0.0
        put_back(model)


def _location(module: nn.Module) -> nn.Parameter:
    found = learnt(module)[_NAME]
    assert found is not None
    return found


def _forward(module: nn.Module, inputs: Tensor) -> Tensor:
    """The forward of a layer with gates on its weights."""
    gates = (sampled if module.training else settled)(_location(module))
    bias = module.bias if isinstance(module.bias, Tensor) else None
    return computed(module, inputs, weight_of(module) * gates, bias)

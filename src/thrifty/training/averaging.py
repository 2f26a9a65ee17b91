"""Averages of the weights of a training, which are often better than the last weights.

An average is a rule: after each step it says how far the average moves towards the weights as
they are.  It is decided by the number of the step alone, so the averages are all that a
checkpoint has to keep.  What is exactly zero when training ends stays zero, whoever made it so
(masks, a ramp, a gate), so an average is as sparse as the network it is of.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.registry import call_spec, parse_spec, suggest

Rule = Callable[[int, int, int], float]
"""(steps done, steps an epoch, epochs) -> share of the weights as they are, in the average."""


def ema(decay: float = 0.999) -> Rule:
    """Exponential moving average: each step, the average keeps ``decay`` of itself.

    It keeps less at first, (1 + steps) / (10 + steps), so that the random weights of the
    beginning are forgotten in short trainings too, as in TensorFlow and timm.

    References:
        Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992
    """
    if not 0 <= decay < 1:
        raise UserError(
            f"ema has decay={decay:g}; it is the share that the average keeps in a step, "
            f"0 <= decay < 1; write ema?decay=.999, or .99 if there are few steps"
        )
    return lambda done, steps, epochs: 1.0 - min(decay, (1 + done) / (10 + done))


def swa(start: float = 0.75) -> Rule:
    """Stochastic weight averaging: the mean of the weights at the ends of the last epochs.

    Args:
        start: share of the epochs after which the mean begins; it needs a learning rate that
            is still high there, such as that of the schedule ``constant``.

    References:
        Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization,
        2018, https://arxiv.org/abs/1803.05407
    """
    if not 0 <= start < 1:
        raise UserError(
            f"swa has start={start:g}; it is the share of the epochs after which the mean "
            f"begins, 0 <= start < 1; write swa?start=.75"
        )

    def rule(done: int, steps: int, epochs: int) -> float:
        epoch, rest = divmod(done, steps)
        count = epoch - math.floor(start * epochs)
        return 1.0 / count if rest == 0 and count > 0 else 0.0

    return rule


_RULES: dict[str, Callable[..., Rule]] = {"ema": ema, "swa": swa}


def rule_of(spec: str) -> Rule:
    """The rule called ``spec``, such as ``ema?decay=.99``.

    Raises:
        UserError: no rule has that name or option, or its value makes no sense.
    """
    said = parse_spec(spec)
    if said.name not in _RULES:
        raise UserError(f"no average is called {said.name!r}; {suggest(said.name, _RULES)}")
    for key, value in said.options.items():
        if isinstance(value, bool | str):
            raise UserError(f"{said.name} has {key}={value}; it is a number")
    return call_spec("the average", said, _RULES[said.name])


class Average:
    """The average of the parameters of a network that is being trained.

    Averages of half-precision parameters are kept in float32, in which small steps count.

    Args:
        spec: as in ``Plan.average``.
        model: whose weights are averaged; its buffers are not.
        steps: steps an epoch.
        epochs: epochs of the training.
    """

    def __init__(self, spec: str, model: nn.Module, steps: int, epochs: int):
        self._rule, self._steps, self._epochs = rule_of(spec), steps, epochs
        self._weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._averages = {
            name: p.detach().clone().to(torch.promote_types(p.dtype, torch.float32))
            for name, p in self._weights.items()
        }

    @torch.no_grad()
    def after_step(self, done: int) -> None:
        """Move the average towards the weights, when ``done`` steps of the training are done."""
        share = self._rule(done, self._steps, self._epochs)
        if share:
            averages = list(self._averages.values())
            weights = [p.to(a) for p, a in zip(self._weights.values(), averages, strict=True)]
            torch._foreach_lerp_(averages, weights, share)

    @torch.no_grad()
    def settle(self) -> None:
        """In place: give the network its average; what is zero stays zero."""
        for name, parameter in self._weights.items():
            if parameter.requires_grad:  # else it was frozen on the way, at the value it has
                average = self._averages[name].to(parameter)
                parameter.copy_(torch.where(parameter == 0, parameter, average))

    def state(self) -> dict[str, Tensor]:
        """All that a checkpoint has to keep."""
        return dict(self._averages)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """In place: go on from what :meth:`state` said."""
        for name, average in self._averages.items():
            average.copy_(state[name])

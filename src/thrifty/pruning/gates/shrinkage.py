"""Scales that an L1 penalty pulls to zero, by a proximal step or by the sign in the gradient."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from thrifty.channels.groups import Groups
from thrifty.errors import UserError
from thrifty.pruning.gates import Gate
from thrifty.registry import suggest

Form = Literal["proximal", "subgradient"]
FORMS = ("proximal", "subgradient")


class Shrunk(Gate):
    """What gates with an L1 penalty on their variables have in common.

    ``proximal`` moves every scale towards zero by ``lr * strength`` after each step, lr being
    that of a constant gradient, momentum included, and sets those to exactly 0.0 that it would
    move past; the largest scale of a layer stays where the layer would lose all.
    ``subgradient`` adds ``strength * sign`` to the gradient, as published; scales then swing
    around zero and do not stay there.  Both minimise loss + strength * sum of absolute scales.

    Args:
        strength: weight of the sum of absolute scales in the loss, 0 or more.
        form: ``proximal`` or ``subgradient``.
        keep: patterns of layers that are left alone; in a text, separated by commas.
        groups: channels of the network; only scales of channels that may be cut are penalised.
    """

    def __init__(
        self,
        strength: float = 1e-4,
        form: Form = "proximal",
        keep: Sequence[str] | str = (),
        groups: Groups | None = None,
    ):
        self.strength = number("strength", strength, least=0.0)
        if form not in FORMS:
            raise UserError(f"no form of shrinking is called {form!r}; {suggest(str(form), FORMS)}")
        self.form = form
        self.keep = tuple(k for k in keep.split(",") if k) if isinstance(keep, str) else tuple(keep)
        self.groups = groups

    @torch.no_grad()
    def after_backward(self, model: nn.Module) -> None:
        """In place: add ``strength * sign(scale)`` to the gradient, for the form that does so."""
        if self.form == "subgradient":
            for parameter in self.variables(model).values():
                add_gradient(parameter, parameter.sign().mul_(self.strength))

    @torch.no_grad()
    def after_step(self, model: nn.Module, lr: float, progress: float) -> None:
        """In place: shrink by ``lr * strength``, for the form that does so."""
        if self.form == "proximal" and self.strength and lr:
            for parameter in self.variables(model).values():
                parameter.copy_(shrunk(parameter, lr * self.strength))


def shrunk(scales: Tensor, by: float) -> Tensor:
    """Each of ``scales`` moved towards zero by ``by``, and exactly +0.0 if it is no further away.

    The largest stays as it is if nothing else would be left, so that no layer dies.  NaN stays.

    Example:
        >>> shrunk(torch.tensor([0.5, -0.3, 0.1]), 0.25)
        tensor([ 0.2500, -0.0500,  0.0000])
    """
    out = functional.softshrink(scales, by) + 0.0
    if not bool(out.any()):
        largest = scales.abs().argmax()
        out.view(-1)[largest] = scales.view(-1)[largest]
    return out


def add_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    """In place: add to the gradient of ``parameter``, which may have none yet."""
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad.add_(gradient)


def number(name: str, value: Any, least: float) -> float:
    """``value`` as a finite number that is ``least`` or more.

    Raises:
        UserError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"the gate has {name}={value!r}; give a number, {least:g} or more")
    if value < least:
        raise UserError(f"the gate has {name}={value:g}; give {least:g} or more")
    return float(value)


def beginning(value: Any) -> float | None:
    """Where scales begin: a number other than 0, or ``None`` (``none`` in a text) for no change.

    Raises:
        UserError: it is neither.
    """
    if value is None or str(value).lower() == "none":
        return None
    if number("init", value, least=-math.inf) == 0:
        raise UserError("the gate has init=0, which closes all channels; 0.5 is usual")
    return float(value)


def share(name: str, threshold: object, about: str) -> float:
    """A threshold of the gate ``name`` on a scale of 0..1.

    Raises:
        UserError: it is no number within 0..1; the message ends in ``about``.
    """
    real = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if not real or not 0 <= threshold <= 1:  # type: ignore[operator]
        raise UserError(f"{threshold!r} is no threshold of the gate {name}; {about}")
    return float(threshold)  # type: ignore[arg-type]

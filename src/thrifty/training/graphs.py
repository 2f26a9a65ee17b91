"""How a training computes its network: compiled, or with less memory; the numbers stay.

Both are asked for in a plan, and neither changes the network: what is compiled is another callable
on the same parameters, so names in state dictionaries and masks stay those of the network.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.training.plan import Plan

_ABLE = "checkpointing"


class Compiled(nn.Module):
    """A network by ``torch.compile``; as it is, if nothing here can compile it.

    Args:
        model: what is compiled, at the first batch.
        say: called with the reason if it cannot be.
    """

    def __init__(self, model: nn.Module, say: Callable[[str], None]):
        super().__init__()
        self.model = model
        self._compute: list[Callable[[Tensor], Tensor]] = [torch.compile(model)]
        self._say, self._tried = say, False

    def forward(self, inputs: Tensor) -> Tensor:
        """What the network makes of a batch."""
        if self._tried:
            return self._compute[0](inputs)
        self._tried = True
        try:
            return self._compute[0](inputs)
        except (RuntimeError, OSError, ImportError) as error:  # what compilers and their absence do
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self._say(f"the network is trained uncompiled, for torch.compile failed: {reason}")
            self._compute[0] = self.model
            return self._compute[0](inputs)


def network(
    model: nn.Module, plan: Plan, tell: Callable[[dict[str, Any]], None] | None
) -> nn.Module:
    """What a training gives its batches to: ``model``, or that compiled.

    Args:
        tell: called with a message, if the model cannot be compiled.
    """
    if not plan.compile:
        return model
    return Compiled(model, lambda text: tell({"message": text}) if tell is not None else None)


@contextmanager
def checkpointing(model: nn.Module, wanted: bool) -> Iterator[None]:
    """In place, for a block: modules that can compute activations again, rather than keep them, do.

    Raises:
        UserError: it is wanted, and no module can.
    """
    able: list[Any] = [m for m in model.modules() if isinstance(vars(m).get(_ABLE), bool)]
    if wanted and not able:
        raise UserError(
            f"checkpointing is asked for, and no module of {type(model).__name__} has an attribute "
            f"'{_ABLE}' (thriftynet has); leave it out, or save memory by a smaller batch"
        )
    before = [m.checkpointing for m in able]
    for m in able if wanted else ():
        m.checkpointing = True
    try:
        yield
    finally:
        for m, value in zip(able, before, strict=True):
            m.checkpointing = value

"""Another forward for a layer, for a while: how gates on single weights get into a network.

A hook sees what a layer returns and cannot change its weights without computing all twice.  So
``forward`` is set on the layer itself, as a ``functools.partial`` of a plain function: it goes
before that of the class, is copied and pickled with the layer (a bound method is not: a pickle
would look it up by its name and find that of the class), and :func:`put_back` deletes it.  The
names and the class of the layer stay.

A hook before the layer notes in a buffer that it was called.  Code that reads a weight without
calling its layer goes past the gate; such a layer is not scored, penalised or changed.  That
there is a hook also keeps torch's fused attention, which reads weights, from being used.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from thrifty.errors import UserError
from thrifty.pruning.gates.layouts import laid_out
from thrifty.pruning.gates.placing import called, holding, vacant

_NAME, _RAN = "weight_gate", "ran"


class WeightGate(nn.Module):
    """What a gate learns of one layer, as a child of it.

    Parameters of the layer itself would be taken for weights of it, by whoever lists those.
    """

    def __init__(self, values: Mapping[str, Tensor]):
        super().__init__()
        for name, value in values.items():
            self.register_parameter(name, nn.Parameter(value))
        device = next(iter(values.values())).device
        self.register_buffer(_RAN, torch.zeros((), dtype=torch.bool, device=device))


def put_in(
    found: Mapping[str, nn.Module],
    begin: Callable[[nn.Module], Mapping[str, Tensor]],
    forward: Callable[..., Tensor],
    **options: Any,
) -> None:
    """In place: let each layer compute ``forward(layer, inputs, **options)``.

    Args:
        begin: where the parameters begin that the gate learns of a layer, by name.
        forward: a plain function of a module, so that copies and pickles find it.
        options: the same for all calls; they must be picklable.
    """
    for module in found.values():
        with torch.no_grad():
            module.add_module(_NAME, WeightGate(begin(module)).train(module.training))
        module.register_forward_pre_hook(_noted, prepend=True)
        module.__dict__["forward"] = functools.partial(forward, module, **options)


def put_back(model: nn.Module) -> None:
    """In place: every gated layer computes what its class does, and has learnt nothing."""
    for module in gated(model).values():
        del module.__dict__["forward"]
        delattr(module, _NAME)
        hooks = module._forward_pre_hooks
        for key in [k for k, hook in hooks.items() if hook is _noted]:
            del hooks[key]


def unnoted(model: nn.Module) -> None:
    """In place: gated layers keep what they noted, and note no more; torch.func maps them then."""
    for module in gated(model).values():
        hooks = module._forward_pre_hooks
        for key in [k for k, hook in hooks.items() if hook is _noted]:
            del hooks[key]


def empty(model: nn.Module) -> None:
    """Refuse a model that has a gate on weights already.

    Raises:
        UserError: it has.
    """
    vacant(model, _NAME)


def gated(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> layer with a gate on its weights.

    Raises:
        UserError: there is none.
    """
    return holding(model, _NAME)


def used(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> gated layer, of those that were called; all if none was yet.

    Raises:
        UserError: no layer has a gate on its weights.
    """
    return called(model, _NAME, f"{_NAME}.{_RAN}")


def learnt(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """What the gate learns of a layer, by the names of :func:`put_in`."""
    holder: WeightGate = module._modules[_NAME]  # type: ignore[assignment]
    return holder._parameters


def variables(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameter name -> all that the gate learns."""
    return {
        f"{name}.{_NAME}.{key}".lstrip("."): value
        for name, module in gated(model).items()
        for key, value in learnt(module).items()
        if value is not None
    }


def weight_of(module: nn.Module) -> Tensor:
    """The weight of a layer, also while torch.func puts a tensor that is no parameter there."""
    found = module._parameters["weight"]
    assert found is not None
    return found


def computed(module: nn.Module, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the layer returns with other values: padding, stride, dilation, groups are its own.

    Args:
        inputs: (batch, in, *size) of a convolution, (*batch, in) of a linear layer; as torch
            takes them.
        weight, bias: shapes of the layer's; ``None`` adds nothing.
    """
    if isinstance(module, nn.Linear):
        return functional.linear(inputs, weight, bias)
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    out: Tensor = module._conv_forward(inputs, laid_out(weight, module.weight), bias)
    return out


def finite(name: str, values: Tensor, what: str) -> Tensor:
    """``values`` without a gradient.

    Raises:
        UserError: some are NaN or infinite.
    """
    bad = int((~torch.isfinite(values.detach())).sum())
    if bad:
        raise UserError(
            f"{bad} of {values.numel():,} values of {what} of {name or 'the network'} are NaN or "
            f"infinite, so its weights cannot be told apart; train again with a lower learning "
            f"rate, or with clip"
        )
    return values.detach()


def _noted(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """The hook: the layer was called."""
    module._modules[_NAME]._buffers[_RAN].fill_(True)  # type: ignore[union-attr]

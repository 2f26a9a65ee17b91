"""Where gates go: the layers whose output channels a gate may scale."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from thrifty.channels.groups import Groups
from thrifty.errors import UserError
from thrifty.pruning.allocation import matching

LAYERS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)

WEIGHT_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

Hook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]


def places(
    model: nn.Module,
    kinds: tuple[type[nn.Module], ...],
    keep: Sequence[str] = (),
    groups: Groups | None = None,
) -> dict[str, nn.Module]:
    """Name -> layer, of all ``kinds`` whose output channels a gate may scale.

    With ``groups`` these are the layers whose channels may be cut.  Without, all but the last
    convolution or linear layer that the model registers, which is its output.  Layers that share
    a weight have none.

    Raises:
        UserError: none is left, a pattern of ``keep`` matches none, or a weight is made anew at
            every step, so that nothing can be folded into it.
    """
    found = {n: m for n, m in _layers(model) if isinstance(m, kinds)}
    if groups is not None:
        free = {m.tensor for g in groups.free for m in g.members if m.role in ("out", "each")}
        found = {n: m for n, m in found.items() if weight_name(n) in free}
    else:
        last = [name for name, _ in _layers(model)][-1:]
        found = {n: m for n, m in found.items() if n not in last}
    exempt = set(matching(tuple(keep), [weight_name(n) for n in found]))
    found = {n: m for n, m in found.items() if weight_name(n) not in exempt}
    if not found:
        raise UserError(
            f"{type(model).__name__} has no layer to gate: gates go to "
            f"{', '.join(k.__name__ for k in kinds if 'Transpose' not in k.__name__)} layers "
            f"before the last one that may lose channels"
            + (f", and keep={list(keep)} leaves none" if keep else "")
        )
    for name, module in found.items():
        _check(name, module)
    return found


def weight_places(model: nn.Module, keep: Sequence[str] = ()) -> dict[str, nn.Module]:
    """Name -> convolution or linear layer of which single weights may be gated; the last one too.

    Only layers that compute what their class in torch computes: no transposed convolutions, no
    layers with a forward of their own, and not the projections that attention reads by itself.
    Layers that share a weight are left out.

    Raises:
        UserError: none is left, a pattern of ``keep`` matches none, or a weight is made anew at
            every step.
    """
    read = {
        id(part)
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention)
        for part in module.modules()
    }
    found = {
        name: module
        for name, module in _layers(model)
        if any(type(module).forward is kind.forward for kind in WEIGHT_LAYERS)
        and id(module) not in read
    }
    exempt = set(matching(tuple(keep), [weight_name(n) for n in found])) if keep else set()
    found = {n: m for n, m in found.items() if weight_name(n) not in exempt}
    if not found:
        raise UserError(
            f"{type(model).__name__} has no layer whose weights can be gated: that takes "
            f"{', '.join(k.__name__ for k in WEIGHT_LAYERS)} layers that share no weight and are "
            f"no part of attention" + (f", and keep={list(keep)} leaves none" if keep else "")
        )
    for name, module in found.items():
        _check(name, module)
    return found


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    uses = Counter(
        id(p)
        for module in model.modules()
        for p in module.parameters(recurse=False)  # in each of them, shared ones too
    )
    for name, module in model.named_modules():
        alone = all(uses[id(p)] == 1 for p in module.parameters(recurse=False))
        if isinstance(module, LAYERS) and alone:
            yield name, module


def _check(name: str, module: nn.Module) -> None:
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        raise UserError(f"{name} has no shape yet; run the network once before it is gated")
    if "weight" not in module._parameters:
        raise UserError(
            f"the weight of {name} is computed at every step (a parametrization, or "
            f"torch.nn.utils.prune); remove that first, or leave the layer out with keep=[{name!r}]"
        )


def listed(keep: Sequence[str] | str) -> tuple[str, ...]:
    """Patterns of layers, in a text separated by commas."""
    return tuple(k for k in keep.split(",") if k) if isinstance(keep, str) else tuple(keep)


def weight_name(layer: str) -> str:
    """The parameter name of the weight of a layer; of the model itself it is ``weight``."""
    return f"{layer}.weight" if layer else "weight"


def width(module: nn.Module) -> int:
    """Output channels of a layer."""
    count = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    assert isinstance(count, int)
    return count


def vacant(model: nn.Module, attribute: str) -> None:
    """Refuse a model of which a layer has ``attribute``.

    Raises:
        UserError: it has; a gate was attached before and not folded.
    """
    for name, module in model.named_modules():
        if hasattr(module, attribute):
            raise UserError(
                f"{name or type(model).__name__} has {attribute!r} already; fold the gate that is "
                f"attached before another is"
            )


def holding(model: nn.Module, attribute: str) -> dict[str, nn.Module]:
    """Name -> layer, of those that have ``attribute``.

    Raises:
        UserError: none has; the gate was not attached.
    """
    found = {n: m for n, m in model.named_modules() if hasattr(m, attribute)}
    if not found:
        raise UserError(
            f"this gate is not attached to the {type(model).__name__}; call attach(model) first, "
            f"and again on a model that is built anew to load a checkpoint"
        )
    return found


def called(model: nn.Module, attribute: str, count: str) -> dict[str, nn.Module]:
    """Name -> layer with ``attribute``, of those that were ever called; all if none was yet.

    Args:
        count: buffer of the layer that is not 0 once its hook has run.

    Raises:
        UserError: none has the attribute; the gate was not attached.
    """
    found = holding(model, attribute)
    return {n: m for n, m in found.items() if bool(m.get_buffer(count))} or found


def hook(module: nn.Module, function: Hook) -> None:
    """In place: pass what ``module`` returns through ``function``, before any other hook.

    ``function`` must be a plain function of a module, so that copies and pickles have it too.
    """
    module.register_forward_hook(function, prepend=True)


def unhook(module: nn.Module, function: Hook) -> None:
    """In place: take ``function`` out again, in a copy of the hooked module as well."""
    hooks = module._forward_hooks
    for key in [k for k, h in hooks.items() if h is function]:
        del hooks[key]

"""Whether tensors of other sizes make a network: tried without memory, before anybody relies on it.

A file of a network with channels removed may be damaged or lie: sizes that do not go together,
heads that no tensor lost, fewer outputs.  Layers are looked at one by one, and then the network
is run on tensors that have a shape and no numbers, at its own size and at that of the file.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.nets.resizing import faults, misfits
from thrifty.nets.shrunk import DTYPES, Inputs, Shrunk, everything, extras, headed, resized

MOST_INPUT = 1 << 20
"""Numbers of an input, above which a network is not run with memory."""

DAMAGED = "the file is damaged; copy or save it again"


def check_holds(
    outline: nn.Module,
    tensors: Mapping[str, Tensor],
    said: Shrunk,
    calls: tuple[Inputs, ...],
    origin: str,
) -> bool:
    """Whether ``outline``, a network on the device meta, runs with tensors of these sizes.

    Args:
        outline: is resized in place.
        tensors: as they are in the file, by the names of the network.
        said: what the file says beside them.
        calls: what it may take; the first that it takes at its own size is tried.
        origin: named in errors.

    Returns:
        False if that could not be seen, for want of inputs or because an operation needs numbers.

    Raises:
        UserError: it does not, or gives outputs of other shapes than before.
    """
    _check_numbers(outline, tensors, said, origin)
    alike = _of_every_name(outline, tensors, origin)
    wrong = list(misfits(outline, alike))
    if wrong:
        raise UserError(f"{_apart(origin)}: {'; '.join(wrong[:3])}; {DAMAGED}")
    own = {**outline.state_dict(keep_vars=True), **extras(outline, said)}
    sizes = {n: torch.empty_like(x, dtype=own[n].dtype, device="meta") for n, x in tensors.items()}
    before = call = None
    for inputs in calls:
        with contextlib.suppress(Exception):  # no meta kernel, or inputs that are not its own
            call = _call(outline, inputs)
            before = _outputs(outline, call)
            break
    try:
        resized(outline, sizes, said)
        if before is None or call is None:
            return False
        after = _outputs(outline, call)
    except Exception as error:  # whatever the code of the network raises
        raise UserError(f"{_apart(origin)}: {_first_line(error)}; {DAMAGED}") from error
    if before != after:
        raise UserError(
            f"{_apart(origin)}: the outputs would be {_list(after)} instead of {_list(before)}; "
            f"{DAMAGED}"
        )
    return True


def check_told(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Ask the modules of ``model`` that check tensors themselves about those of a file.

    Raises:
        UserError: they take them not.
    """
    wrong = list(faults(model, tensors))
    if wrong:
        raise UserError(f"{origin}: its tensors make no network: {'; '.join(wrong[:3])}; {DAMAGED}")


def check_runs(model: nn.Module, calls: tuple[Inputs, ...], origin: str) -> None:
    """Run ``model`` on zeros, if they are not many; for networks that cannot run without numbers.

    Raises:
        UserError: it takes none of ``calls``.
    """
    failed: Exception | None = None
    for inputs in calls:
        if sum(math.prod(shape) for _, shape in inputs) <= MOST_INPUT:
            try:
                _outputs(model, _call(model, inputs))
                return
            except Exception as error:  # whatever the code of the network raises
                failed = failed or error
    if failed is not None:
        raise UserError(f"{_apart(origin)}: {_first_line(failed)}; {DAMAGED}") from failed


def _check_numbers(
    model: nn.Module, tensors: Mapping[str, Tensor], said: Shrunk, origin: str
) -> None:
    """Heads are known wherever tensors are smaller, and go down with them."""
    every = everything(model)
    smaller = [n for n, x in tensors.items() if n in every and every[n].shape != x.shape]
    known = {(path, attribute) for path, attribute, _ in said.attributes}
    for path, attribute, _ in headed(model, smaller):
        if (path, attribute) not in known:
            raise UserError(
                f"{origin}: tensors of the module {path!r} are smaller than in the network, and "
                f"the file does not say how many heads it has now ({attribute}); save it with "
                f"thrifty.save, which writes them down"
            )
    modules = dict(model.named_modules())
    own = dict(model.named_parameters())
    for path, attribute, now in said.attributes:
        before = vars(modules[path]).get(attribute) if path in modules else None
        if not isinstance(before, int) or isinstance(before, bool) or now > before:
            raise UserError(
                f"{origin}: the header gives {attribute} of the module {path!r} the number {now}, "
                f"and in the network it is {before!r}; {DAMAGED}"
            )
        prefix = f"{path}." if path else ""
        ratios = {
            (a, b)
            for name, x in own.items()
            if name.startswith(prefix) and name in tensors
            for a, b in zip(x.shape, tensors[name].shape, strict=True)
        }
        if now != before and not any(a * now == b * before for a, b in ratios):
            raise UserError(
                f"{origin}: the header gives {attribute} of the module {path!r} the number {now} "
                f"instead of {before}, and no tensor in it is smaller by as much; {DAMAGED}"
            )


def _of_every_name(
    model: nn.Module, tensors: Mapping[str, Tensor], origin: str
) -> dict[str, tuple[int, ...]]:
    """Shapes by every name of a tensor; a file may give one of them."""
    own = everything(model)
    shapes = {name: tuple(x.shape) for name, x in tensors.items()}
    given: dict[int, str] = {}
    for name in tensors:
        first = given.setdefault(id(own[name]), name) if name in own else name
        if shapes[first] != shapes[name]:
            raise UserError(
                f"{_apart(origin)}: {first} and {name} are one tensor and have the shapes "
                f"{shapes[first]} and {shapes[name]}; {DAMAGED}"
            )
    return shapes | {n: shapes[given[id(x)]] for n, x in own.items() if id(x) in given}


def _call(model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
    """Zeros on the device of ``model``, those of floats in its float type."""
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    kinds = [(DTYPES[dtype], shape) for dtype, shape in inputs]
    return tuple(
        torch.zeros(
            shape, dtype=first.dtype if kind.is_floating_point else kind, device=first.device
        )
        for kind, shape in kinds
    )


def _outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[tuple[int, ...]]:
    """Shapes of what a call in eval mode gives."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), inputs[0].device:
            return list(_shapes(model(*inputs)))
    finally:
        for module, mode in training.items():
            module.training = mode


def _shapes(value: Any) -> Iterator[tuple[int, ...]]:
    if isinstance(value, Tensor):
        yield tuple(value.shape)
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _shapes(part)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _apart(origin: str) -> str:
    return f"{origin}: the sizes of its tensors do not go together"


def _list(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(str(list(shape)) for shape in shapes[:3]) or "none"

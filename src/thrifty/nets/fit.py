"""Tensors from a file into a network: all of them, each of its shape, or none."""

import copy
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.nets.architecture import architecture_of
from thrifty.nets.macs import without_numbers
from thrifty.nets.reading import header_of, read_weights
from thrifty.nets.resizing import may_be_empty, settle
from thrifty.nets.shrunk import (
    Shrunk,
    calls_of,
    extras,
    put,
    resized,
    shrunk_in,
)
from thrifty.nets.trying import check_holds, check_runs, check_told

PREFIXES = ("module.", "model.", "_orig_mod.")
"""What DataParallel, trainers and torch.compile put before every name."""

HEADS = ("fc", "linear", "classifier", "head")
"""Names of the last linear layer; a file may use one and the network another."""

STATISTICS = {"running_mean": 0.0, "running_var": 1.0}
"""What BatchNorm keeps beside its parameters, and the numbers it is built with."""

LISTED = 10


def load_weights(model: nn.Module, path: str | Path, *, resize: bool | None = False) -> None:
    """In place: the weights of the file ``path``, all or, on an error, none of them.

    Prefixes that every name of the file has (``module.``, ``model.``, ``_orig_mod.``) are taken
    off if the names fit better without, and a last layer may be called ``fc``, ``linear``,
    ``classifier`` or ``head``.  Nothing else is guessed.  BatchNorm counters may be absent.
    Running means and variances may be absent if the file has none at all and those of ``model``
    are as built, 0 and 1: they were folded into the scales and shifts before it was written.
    Floats of another size are converted, as ``copy_`` does.

    Args:
        model: filled in place.
        path: a file of ours, or a state dict of any trainer.
        resize: make layers of ``model`` smaller where those of the file are, because
            :func:`thrifty.shrink` removed channels; their parameters are new objects then.
            None does so if the header of the file says that it is of this very network.

    Raises:
        UserError: names or shapes differ (all differences are listed), a weight is NaN or
            infinite, or :func:`~thrifty.nets.read_weights` refuses the file.
    """
    tensors, metadata = read_weights(path)
    header = header_of(metadata, Path(path))
    said = shrunk_in(header, path)
    if resize is None:
        resize = said is not None and _is_of(header or {}, model)
    if resize:
        fill_smaller(model, tensors, str(path), said)
    else:
        fill(model, tensors, str(path))


def fill(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """In place: ``tensors`` into ``model``; ``origin`` is named in errors."""
    own = _own(model)
    _check_memory(model, own)
    fitting = fitted(own, tensors, origin, type(model).__name__, more=extras(model, Shrunk()))
    check_finite(fitting, origin)
    check_told(model, fitting, origin)
    with torch.no_grad():
        for name, x in fitting.items():
            own[name].copy_(x)
    settle(model)


def fill_smaller(
    model: nn.Module, tensors: Mapping[str, Tensor], origin: str, said: Shrunk | None
) -> None:
    """In place: ``tensors`` into ``model``, whose layers become as small as they are.

    Args:
        said: what the file says beside them; without it, modules that count heads stay.
    """
    own = _own(model)
    _check_memory(model, own)
    said = said or Shrunk()
    more = extras(model, said)
    kind = type(model).__name__
    empty = may_be_empty(model)
    fitting = fitted(own, tensors, origin, kind, more=more, smaller=True, empty=empty)
    check_finite(fitting, origin)
    check_told(model, fitting, origin)
    calls = calls_of(said, architecture_of(model))
    known = {**more, **own}
    device = next((x.device for x in own.values()), torch.device("cpu"))
    fitting = {name: x.to(device, known[name].dtype) for name, x in fitting.items()}
    if not check_holds(without_numbers(model), fitting, said, calls, origin):
        trial = copy.deepcopy(model)
        resized(trial, fitting, said)
        check_runs(trial, calls, origin)
    put(model, fitting, said)


def fitted(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    origin: str,
    kind: str,
    *,
    more: Mapping[str, Tensor],
    smaller: bool = False,
    empty: Collection[str] = (),
) -> dict[str, Tensor]:
    """``tensors`` under the names that ``own``, the tensors of a network, gives them.

    Args:
        own: all but counters must be there, each of its shape.
        tensors: of the file ``origin``.
        origin: named in errors, as ``kind``, the network, is.
        more: what may be there as well if channels were removed (:func:`extras`).
        smaller: whether they may have been.
        empty: names of tensors of which nothing may be left then.

    Raises:
        UserError: they do not fit; the message lists what is missing, unexpected and of
            another shape.
    """
    found = _head_renamed(own, _without_prefix(own, tensors))
    present = {id(own[name]) for name in found if name in own}
    folded = _statistics_folded(own, found)
    missing = [
        name
        for name, x in own.items()
        if name not in found
        and id(x) not in present
        and not _counter(name)
        and not (folded and _last(name) in STATISTICS)
    ]
    known = {**more, **own} if smaller else own
    unexpected = [name for name in found if name not in known and not _counter(name)]
    both = [name for name in found if name in known]
    shapes = [
        name
        for name in both
        if not (
            _no_larger(found[name], known[name], 0 if name in empty else 1)
            if smaller
            else found[name].shape == known[name].shape
        )
    ]
    kinds = [
        name
        for name in both
        if found[name].dtype != known[name].dtype
        and not (found[name].is_floating_point() and known[name].is_floating_point())
        and not _counter(name)
    ]
    if missing or unexpected or shapes or kinds:
        lines = [f"{origin} does not fit {kind}"]
        lines += _listed("missing in the file", missing)
        lines += _listed("not in the network", unexpected)
        lines += _listed(
            "of another shape",
            [f"{n} {tuple(found[n].shape)}, network {tuple(known[n].shape)}" for n in shapes],
        )
        lines += _listed(
            "of another type", [f"{n} {found[n].dtype}, network {known[n].dtype}" for n in kinds]
        )
        if not (missing or kinds):
            told = [] if unexpected else _classes_differ(own, found, shapes)
            lines += told or _channels_differ({**more, **own}, found, shapes)
        raise UserError("\n".join(lines))
    return {name: found[name] for name in both}


def check_finite(tensors: Mapping[str, Tensor], origin: str) -> None:
    """Refuse tensors that hold NaN or infinite numbers.

    Raises:
        UserError: one does; the message names the first such tensor and how many it holds.
    """
    for name, x in tensors.items():
        if not (x.is_floating_point() or x.is_complex()):
            continue
        numbers = x.float() if x.element_size() == 1 else x  # 8-bit floats cannot be asked
        bad = x.numel() - int(torch.isfinite(numbers).sum())
        if bad:
            raise UserError(
                f"{origin}: {name} has {bad:,} of {x.numel():,} numbers that are NaN or infinite; "
                f"the training that wrote it diverged, or the file is damaged; use an earlier one"
            )


def _check_memory(model: nn.Module, own: Mapping[str, Tensor]) -> None:
    if any(x.is_meta for x in own.values()):
        raise UserError(
            f"{type(model).__name__} is on the device 'meta' and has no memory for weights; build "
            f"it on another device"
        )


def _is_of(header: Mapping[str, Any], model: nn.Module) -> bool:
    """Whether a header names the network that ``model`` was built as."""
    found, shape = architecture_of(model), header.get("shape")
    return (
        found is not None
        and header.get("model") == found.model
        and header.get("classes") == found.classes
        and (shape is None or found.shape is None or shape == list(found.shape))
    )


def _no_larger(x: Tensor, own: Tensor, least: int = 1) -> bool:
    """Whether ``x`` may be ``own`` with slices removed, ``least`` of a dimension left."""
    pairs = zip(x.shape, own.shape, strict=False)
    return x.dim() == own.dim() and all(n == most or least <= n <= most for n, most in pairs)


def _own(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict(keep_vars=True)
    return {name: x for name, x in state.items() if isinstance(x, Tensor)}


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _counter(name: str) -> bool:
    return _last(name) == "num_batches_tracked"


def _statistics_folded(own: Mapping[str, Tensor], found: Iterable[str]) -> bool:
    """Whether ``found`` has no running statistics and those of ``own`` are as built."""
    if any(_counter(name) or _last(name) in STATISTICS for name in found):
        return False
    ours = [(x, STATISTICS[_last(name)]) for name, x in own.items() if _last(name) in STATISTICS]
    return all(not x.is_meta and bool((x == value).all()) for x, value in ours)


def _without_prefix(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names with as many common prefixes taken off as makes most of them known."""
    best = forms = dict(tensors)
    while True:
        prefix = next((p for p in PREFIXES if forms and all(n.startswith(p) for n in forms)), None)
        if prefix is None:
            return best
        forms = {name[len(prefix) :]: x for name, x in forms.items()}
        if _strangers(own, forms) < _strangers(own, best):
            best = forms


def _strangers(own: Iterable[str], found: Iterable[str]) -> int:
    return len(set(own) ^ set(found))


def _head_renamed(own: Mapping[str, Tensor], found: dict[str, Tensor]) -> dict[str, Tensor]:
    missing = {name.rpartition(".")[0] for name in own if name not in found and not _counter(name)}
    extra = {name.rpartition(".")[0] for name in found if name not in own and not _counter(name)}
    for ours, theirs in itertools.product(HEADS, HEADS):
        if missing == {ours} and extra == {theirs}:
            return {
                f"{ours}.{name[len(theirs) + 1 :]}" if name.startswith(f"{theirs}.") else name: x
                for name, x in found.items()
            }
    return found


def _listed(title: str, entries: Sequence[str]) -> list[str]:
    if not entries:
        return []
    more = f"; and {len(entries) - LISTED} more" if len(entries) > LISTED else ""
    return [f"  {title}: " + "; ".join(entries[:LISTED]) + more]


def _classes_differ(
    own: Mapping[str, Tensor], found: Mapping[str, Tensor], shapes: Sequence[str]
) -> list[str]:
    layers = {name.rpartition(".")[0] for name in shapes}
    last = [name.rpartition(".")[0] for name in own][-1]
    if layers != {last} or any(found[n].shape[1:] != own[n].shape[1:] for n in shapes):
        return []
    theirs, ours = found[shapes[0]].shape[0], own[shapes[0]].shape[0]
    return [
        f"all but the last layer fits: the file is of {theirs} classes and the network of {ours}; "
        f"build the network with classes={theirs}"
    ]


def _channels_differ(
    known: Mapping[str, Tensor], found: Mapping[str, Tensor], shapes: Sequence[str]
) -> list[str]:
    fits = all(_no_larger(x, known[n]) for n, x in found.items() if n in known)
    if not shapes or not fits or any(n not in known and not _counter(n) for n in found):
        return []
    return [
        "every tensor is there and some are smaller: channels were removed from the network in the "
        "file; load it with load_weights(..., resize=True), or, if thrifty saved it, give the file "
        "as the network and not as weights"
    ]

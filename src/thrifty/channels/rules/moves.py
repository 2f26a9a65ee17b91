"""Operations that move elements and compute nothing: they are done to the atoms themselves."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from thrifty.channels.labels import aligned, compact, row, spread, varying
from thrifty.channels.rules import Operation, rule
from thrifty.channels.ties import FIXED

if TYPE_CHECKING:
    from thrifty.channels.trace import Split, Tracer

CARRIES = "they carry the input of the network"


@rule(
    "permute",
    "transpose",
    "t",
    "unsqueeze",
    "squeeze",
    "clone",
    "alias",
    "detach",
    "lift_fresh",
    "flip",
    "roll",
    "repeat",
    "tile",
    "movedim",
    "diagonal",
    "unfold",
    "numpy_T",
)
def moved(t: "Tracer", op: Operation) -> None:
    """The same done to the atoms."""
    x = op.args[0]
    if op.name == "clone":
        return t.put(op.out, t.facets(x))
    found = [op.func(spread(ids, x.shape), *op.args[1:], **op.kwargs) for ids in t.facets(x)]
    return t.put(op.out, tuple(compact(ids) for ids in found))


@rule("channel_shuffle", "native_channel_shuffle")
def shuffled(t: "Tracer", op: Operation) -> None:
    """Channels taken apart into equal parts and interleaved: all parts lose the same."""
    x, parts, found = op.args[0], int(op.args[1]), []
    for ids in t.facets(x):
        if ids.shape[1] > 1:
            apart = ids.reshape(ids.shape[0], parts, -1, *ids.shape[2:])
            t.trace.splits.append(_split(t, compact(apart)))
        found.append(compact(op.func(spread(ids, x.shape), parts)))
    t.put(op.out, tuple(found))


@rule("contiguous", "to", "_to_copy", "type_as", "resolve_conj", "resolve_neg", "as_strided")
def unmoved(t: "Tracer", op: Operation) -> None:
    """Another layout or type of the same elements; another shape by strides is not followed."""
    x = op.args[0]
    if op.out.shape == x.shape:
        return t.put(op.out, t.facets(x))
    for ids in t.facets(x):
        t.ties.fix(ids, f"{t.where(op.name)} is not followed")
    return None


@rule("view", "_unsafe_view", "reshape", "flatten", "unflatten", "pixel_shuffle", "pixel_unshuffle")
def viewed(t: "Tracer", op: Operation) -> None:
    """Dimensions taken apart or together; where channels are taken apart, that is remembered."""
    x, found = op.args[0], []
    if not hasattr(op.out, "shape") or op.out.dtype != x.dtype:
        return
    for ids in t.facets(x):
        whole = spread(ids, x.shape)
        if op.name.startswith("pixel"):
            moved_ids = op.func(whole, *op.args[1:])
        else:
            moved_ids = whole.reshape(op.out.shape)
        new = compact(moved_ids)
        if len(varying(new)) > len(varying(ids)) and not op.name.startswith("pixel"):
            t.trace.splits.append(_split(t, new))
        found.append(new)
    t.put(op.out, tuple(found))


def _split(t: "Tracer", ids: Tensor) -> "Split":
    from thrifty.channels.trace import Split

    dims = varying(ids)
    return Split(ids.reshape([ids.shape[d] for d in dims]), t.module, dims)


@rule("expand", "expand_as", "broadcast_to")
def expanded(t: "Tracer", op: Operation) -> None:
    """Facets broadcast as tensors do."""
    t.put(op.out, tuple(aligned(ids, op.out.dim()) for ids in t.facets(op.args[0])))


@rule("constant_pad_nd", "pad", "reflection_pad1d", "reflection_pad2d", "replication_pad2d")
def padded(t: "Tracer", op: Operation) -> None:
    """New elements at the ends; along channels they are zeros that no layer makes."""
    x, found = op.args[0], []
    amounts = list(op.args[1])
    touched = {x.dim() - 1 - i // 2 for i, amount in enumerate(amounts) if amount}
    for ids in t.facets(x):
        if not touched & set(varying(ids)):
            found.append(ids)
            continue
        sizes = [x.shape[d] if d in varying(ids) else 1 for d in range(x.dim())]
        mine = [a if x.dim() - 1 - i // 2 in varying(ids) else 0 for i, a in enumerate(amounts)]
        found.append(torch.constant_pad_nd(ids.expand(sizes), mine, 0))
    t.put(op.out, tuple(found))
    if op.name == "constant_pad_nd" and len(touched) == 1 and not op.argument(2, "value", 0):
        (dim,) = touched
        before, behind = amounts[2 * (x.dim() - 1 - dim) :][:2]
        zeros = torch.ones(op.out.shape[dim], dtype=torch.bool)
        zeros[max(0, before) : len(zeros) - max(0, behind)] = False
        t.zeros[id(op.out)] = dim, zeros


@rule("slice", "narrow")
def sliced(t: "Tracer", op: Operation) -> None:
    """A part of a dimension; of channels it has fixed bounds, which keeps them whole."""
    x = op.args[0]
    dim = int(op.argument(1, "dim", 0)) % x.dim()
    found = []
    for ids in t.facets(x):
        if ids.shape[dim] == 1:
            found.append(ids)
        elif op.out.shape[dim] == x.shape[dim]:
            found.append(compact(op.func(spread(ids, x.shape), *op.args[1:], **op.kwargs)))
        else:
            t.ties.fix(ids, f"{t.where('a slice')} takes a fixed part of them")
    t.put(op.out, tuple(found))


@rule("select", "unbind")
def selected(t: "Tracer", op: Operation) -> None:
    """One index, or each: the dimension keeps its size, so channels along it go together."""
    from thrifty.channels.trace import tensors_in

    x = op.args[0]
    dim = int(op.argument(1, "dim", 0)) % x.dim()
    outs = tensors_in([op.out])
    found: list[list[Tensor]] = [[] for _ in outs]
    for ids in t.facets(x):
        if ids.shape[dim] == x.shape[dim] > 1:
            _held(t, ids, dim)
        for number, out in enumerate(found):
            index = number if op.name == "unbind" else int(op.args[2]) % x.shape[dim]
            out.append(compact(ids.select(dim, index if ids.shape[dim] > 1 else 0)))
    for out_tensor, facets in zip(outs, found, strict=True):
        t.put(out_tensor, tuple(f for f in facets if varying(f)))


def _held(t: "Tracer", ids: Tensor, dim: int) -> None:
    """The size of a dimension is a number in the code, settled when all else is tied."""
    others = [d for d in varying(ids) if d != dim]
    flat = ids.movedim(dim, 0).reshape([ids.shape[dim], *(ids.shape[d] for d in others)])
    t.trace.halves.append([part.reshape(-1) for part in flat])


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")
def parted(t: "Tracer", op: Operation) -> None:
    """Parts of a dimension; parts of channels lose equally many if they are equal."""
    x = op.args[0]
    dim = int(op.argument(2, "dim", 0)) % x.dim()
    sizes = [int(out.shape[dim]) for out in op.out]
    found: list[list[Tensor]] = [[] for _ in sizes]
    for ids in t.facets(x):
        if ids.shape[dim] == 1 or len(sizes) == 1:
            parts = [ids] * len(sizes)
        else:
            parts = _cut(ids, sizes, dim)
            if len(set(sizes)) == 1:
                t.trace.halves.append([part.reshape(-1) for part in parts])
            else:
                _fixed_parts(t, ids, dim)
        for out, part in zip(found, parts, strict=True):
            out.append(compact(part))
    for out_tensor, facets in zip(op.out, found, strict=True):
        t.put(out_tensor, tuple(f for f in facets if varying(f)))


@rule("glu")
def gated(t: "Tracer", op: Operation) -> None:
    """One half times the sigmoid of the other."""
    x = op.args[0]
    dim = int(op.argument(1, "dim", -1)) % x.dim()
    found = []
    for ids in t.facets(x):
        if ids.shape[dim] > 1:
            half = ids.shape[dim] // 2
            ids, gate = _cut(ids, [half, half], dim)
            t.ties.tie(ids, gate, t.where("glu"))
        found.append(compact(ids))
    t.put(op.out, tuple(f for f in found if varying(f)))


def _cut(ids: Tensor, sizes: list[int], dim: int) -> list[Tensor]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [ids.narrow(dim, start, size) for start, size in zip(starts, sizes, strict=True)]


def _fixed_parts(t: "Tracer", ids: Tensor, dim: int) -> None:
    """Unequal parts have sizes from the code: tied along, if other dimensions change too."""
    if len(varying(ids)) > 1:
        t.ties.tie_along(ids, dim)
    else:
        t.ties.fix(ids, f"{t.where('a split into unequal parts')} has fixed sizes")


@rule("index", "index_select", "gather", "take_along_dim")
def indexed(t: "Tracer", op: Operation) -> None:
    """Elements by number: dimensions that are indexed stay whole, the others go along.

    What a buffer picks are the channels that it names, and lose what it loses.
    """
    x = op.args[0]
    if op.name == "index":
        touched = {d for d, index in enumerate(op.args[1]) if index is not None}
        if any(i is not None and i.dtype == torch.bool and i.dim() > 1 for i in op.args[1]):
            touched = set(range(x.dim()))
    else:
        touched = {int(op.args[1]) % x.dim()}
    found = []
    for ids in t.facets(x):
        if touched & set(varying(ids)):
            t.ties.fix(ids, f"{t.where('an index')} picks them by number")
        else:
            found.append(compact(_picked(op, spread(ids, x.shape))))
    if op.name == "index_select" and not t.is_fed(op.args[2]):
        found += _named(t, op)
    t.put(op.out, tuple(f for f in found if varying(f)))


def _named(t: "Tracer", op: Operation) -> list[Tensor]:
    """The atoms of a buffer that picks, along the dimension in which it does.

    Those that pick what the network is given stay: zeros instead would leave it blind, and no
    score of a channel tells.
    """
    x, index = op.args[0], op.args[2]
    dim, found = int(op.args[1]) % x.dim(), []
    for ids in t.facets(index):
        t.role(ids, "stat")
        found.append(row(ids.reshape(-1), x.dim(), dim))
        if t.is_fed(x):
            at, zeros = t.zeros.get(id(x), (dim, torch.zeros(x.shape[dim], dtype=torch.bool)))
            made = zeros if at == dim else torch.zeros_like(zeros[:1]).expand(x.shape[dim])
            made = made | _made(t, x, dim)
            t.ties.fix(ids.reshape(-1)[~made[index.cpu()]], CARRIES)
    return found


def _made(t: "Tracer", x: Tensor, dim: int) -> Tensor:
    """(size,) bool, which indices of ``dim`` some layer makes."""
    made = torch.zeros(x.shape[dim], dtype=torch.bool)
    for ids in t.facets(x):
        if ids.shape[dim] > 1:
            made |= (ids != FIXED).movedim(dim, 0).flatten(1).any(1)
    return made


def _picked(op: Operation, ids: Tensor) -> Any:
    return op.func(ids, *op.args[1:], **op.kwargs)

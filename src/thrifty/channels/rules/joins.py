"""Concatenation: along channels they lie side by side, along anything else they are tied."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from thrifty.channels.labels import compact, varying
from thrifty.channels.rules import Operation, rule
from thrifty.channels.rules.pointwise import merged

if TYPE_CHECKING:
    from thrifty.channels.trace import Tracer


@rule("cat", "concat", "concatenate")
def cat(t: "Tracer", op: Operation) -> None:
    """Along ``dim``."""
    pieces = [x for x in op.args[0] if x.dim() == op.out.dim()]
    dim = int(op.argument(1, "dim", 0)) % op.out.dim()
    t.put(op.out, _joined(t, pieces, dim, [list(t.facets(x)) for x in pieces]))


@rule("stack")
def stack(t: "Tracer", op: Operation) -> None:
    """A new dimension, then as ``cat``; its size is how many tensors there are."""
    dim = int(op.argument(1, "dim", 0)) % op.out.dim()
    pieces = [x.unsqueeze(dim) for x in op.args[0]]
    facets = [[ids.unsqueeze(dim) for ids in t.facets(x)] for x in op.args[0]]
    t.put(op.out, _joined(t, pieces, dim, facets))


def _joined(
    t: "Tracer", pieces: list[Tensor], dim: int, facets: list[list[Tensor]]
) -> tuple[Tensor, ...]:
    side: list[Tensor | None] = []
    across: list[list[Tensor]] = []
    for found in facets:
        mine = [ids for ids in found if ids.shape[dim] > 1]
        across.append([ids for ids in found if ids.shape[dim] == 1])
        side.append(merged(t, mine)[0] if mine else None)
    out: list[Tensor] = []
    if any(ids is not None for ids in side):
        out.append(_beside(t, pieces, dim, side, across))
        if len(varying(out[0])) > 1:
            across = [[] for _ in across]
    every = [ids for found in across for ids in found]
    touched = {d for ids in every for d in varying(ids)}
    for found in across:
        missing = touched - {d for ids in found for d in varying(ids)}
        if missing and every:
            for ids in every:
                if set(varying(ids)) & missing:
                    t.ties.fix(ids, f"{t.where('cat')} joins them with what no layer makes")
    out += merged(t, every, t.where("cat"))
    return tuple(compact(ids) for ids in out if varying(ids))


def _beside(
    t: "Tracer",
    pieces: list[Tensor],
    dim: int,
    side: list[Tensor | None],
    across: list[list[Tensor]],
) -> Tensor:
    """One facet along ``dim`` of pieces of which some have none: theirs is FIXED."""
    dims = pieces[0].dim()
    wide = {d for ids in side if ids is not None for d in varying(ids)} - {dim}
    sizes = [max((p.shape[d] for p in pieces), default=1) if d in wide else 1 for d in range(dims)]
    laid = []
    for piece, ids, rest in zip(pieces, side, across, strict=True):
        sizes[dim] = piece.shape[dim]
        if ids is None:
            found = [f for f in rest if set(varying(f)) & wide]
            ids = found[0] if found else torch.zeros([1] * dims, dtype=torch.int64)
        here = [sizes[d] if d == dim or d in wide else ids.shape[d] for d in range(dims)]
        laid.append(ids.expand(here))
    return torch.cat(laid, dim)

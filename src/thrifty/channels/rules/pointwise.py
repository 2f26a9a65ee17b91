"""Operations that compute element by element: what meets in them lives and dies together."""

from typing import TYPE_CHECKING

from torch import Tensor

from thrifty.channels.labels import Facets, aligned, compact, varying
from thrifty.channels.rules import Operation, rule

if TYPE_CHECKING:
    from thrifty.channels.trace import Tracer


def elementwise(t: "Tracer", op: Operation) -> None:
    """``add``, ``mul``, ``relu``, ``where``, ...: the facets of all operands, tied."""
    from thrifty.channels.trace import tensors_in

    outs = tensors_in([op.out])
    dims = outs[0].dim()
    operands = [x for x in tensors_in([op.args, op.kwargs]) if x.dim() <= dims]
    found = joined(t, operands, dims, op.name)
    for out in outs:
        t.put(out, found)


def joined(t: "Tracer", operands: list[Tensor], dims: int, name: str) -> Facets:
    """The facets of what operands broadcast to; facets that overlap are tied."""
    because = t.where(name)
    shapes = [(1,) * (dims - x.dim()) + tuple(x.shape) for x in operands]
    facets = [[aligned(ids, dims) for ids in t.facets(x)] for x in operands]
    for i, ours in enumerate(facets):
        for ids in ours:
            if not t.is_fed(operands[i]):
                t.role(ids, "each")
            for j, theirs in enumerate(facets):
                if i == j:
                    continue
                wide = [d for d in varying(ids) if shapes[j][d] > 1]
                if wide and not any(set(varying(other)) & set(wide) for other in theirs):
                    t.ties.fix(ids, f"{because} joins them with what no layer makes")
    return merged(t, [ids for ours in facets for ids in ours], because)


def merged(t: "Tracer", facets: list[Tensor], because: str = "") -> Facets:
    """The same with any two that change along a common dimension tied and made one."""
    kept: list[Tensor] = []
    for ids in sorted(facets, key=lambda f: -len(varying(f))):
        for other in kept:
            if set(varying(ids)) & set(varying(other)):
                t.ties.tie(other, ids, because)
                break
        else:
            if varying(ids):
                kept.append(ids)
    return tuple(kept)


@rule("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like")
def like(t: "Tracer", op: Operation) -> None:
    """Constants of another tensor's shape take its size, whatever that becomes."""
    t.put(op.out, t.facets(op.args[0]))


@rule("new_zeros", "new_ones", "new_full", "new_empty", "empty", "size", "stride")
def fresh(t: "Tracer", op: Operation) -> None:
    """New constants, if not of the very shape of the tensor they are made beside."""
    if isinstance(op.out, Tensor) and op.out.shape == op.args[0].shape:
        t.put(op.out, t.facets(op.args[0]))


@rule("bernoulli", "uniform", "normal", "exponential", "fill", "zero")
def drawn(t: "Tracer", op: Operation) -> None:
    """Every element is drawn or set by itself: the tensor keeps its size, whatever that becomes."""
    t.put(op.out, t.facets(op.args[0]))


@rule("native_dropout", "_fused_dropout", "alpha_dropout")
def dropout(t: "Tracer", op: Operation) -> None:
    """Nothing moves."""
    t.put(op.out[0], t.facets(op.args[0]))


@rule("copy")
def copy(t: "Tracer", op: Operation) -> None:
    """Written into other memory, where it is no longer followed."""
    for x in op.args[:2]:
        for ids in t.facets(x):
            t.ties.fix(ids, f"{t.where('a copy into another tensor')} is not followed")


@rule("cumsum", "cumprod", "sort", "topk", "argsort")
def ordered(t: "Tracer", op: Operation) -> None:
    """Along a dimension every element depends on the others; elsewhere nothing changes."""
    from thrifty.channels.trace import tensors_in

    x = op.args[0]
    dim = int(op.argument(2 if op.name == "topk" else 1, "dim", -1)) % x.dim()
    kept = []
    for ids in t.facets(x):
        if ids.shape[dim] > 1:
            t.ties.fix(ids, f"{t.where(op.name)} mixes them")
        else:
            kept.append(compact(ids))
    for out in tensors_in([op.out]):
        t.put(out, tuple(kept))

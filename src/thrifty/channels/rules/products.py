"""Convolutions, matrix products, attention, embeddings: where channels are made and read."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor

from thrifty.channels.labels import along, compact, no_atoms, row, varying
from thrifty.channels.rules import Operation, rule
from thrifty.channels.rules.pointwise import merged

if TYPE_CHECKING:
    from thrifty.channels.trace import Tracer

READS_INPUT = "they read the input of the network"


@rule("convolution", "_convolution", "cudnn_convolution", "mkldnn_convolution")
def convolution(t: "Tracer", op: Operation) -> None:
    """Filters make channels; their columns read those of the input."""
    x, weight, bias = op.args[0], op.args[1], op.args[2]
    padding, transposed, groups = op.args[4], bool(op.args[6]), int(op.args[8])
    dims = x.dim()
    mine, carried = _read(t, list(t.facets(x)), dims)
    facets = list(t.facets(weight))
    outs, others = along(facets, 1 if transposed else 0)
    ins, kernel = along(others, 0 if transposed else 1)
    for ids in kernel:
        t.ties.fix(ids, "")
    if groups > 1:
        made = _grouped(t, mine, outs, ins, groups, transposed, x, op.out)
    else:
        for ids in ins:
            t.role(ids, "in")
            t.ties.tie(ids.reshape(-1), mine)
        if not ins:
            t.ties.fix(mine, f"{t.where('a convolution of one channel')} reads them")
        made = _one(t, outs, "out")
    if bias is not None:
        for ids in t.facets(bias):
            t.role(ids, "shift")
            t.ties.tie(ids.reshape(-1), made)
    side = x if transposed else op.out
    t.use(weight, math.prod(side.shape[2:]))
    name = t.name(weight)
    if name is not None:
        t.made_by[id(op.out)] = name
        if any(int(p) > 0 for p in padding):
            t.trace.padded.add(name)
    t.put(op.out, _out(made, dims, 1, carried))


def _read(t: "Tracer", facets: list[Tensor], dims: int) -> tuple[Tensor, list[Tensor]]:
    """Atoms of the channels (n,) or (1,), and the facets along the batch; places are tied."""
    found, carried = [], []
    for ids in facets:
        for dim in range(2, dims):
            if ids.shape[dim] > 1 and ids.shape[1] == 1:
                t.ties.fix(ids, f"{t.where('a convolution')} runs over them")
                break
            ids = t.ties.tie_along(ids, dim)
        else:
            if ids.shape[1] > 1:
                if ids.shape[0] > 1:
                    ids = t.ties.tie_along(ids, 0)
                found.append(ids.reshape(-1))
            else:
                carried.append(ids)
    for other in found[1:]:
        t.ties.tie(found[0], other, t.where("a convolution"))
    return (found[0] if found else no_atoms(1)), carried


def _one(t: "Tracer", facets: list[Tensor], role: str) -> Tensor:
    """The atoms of several facets along one dimension, tied: those of a computed weight."""
    for ids in facets:
        t.role(ids, role)
        t.ties.tie(facets[0].reshape(-1), ids.reshape(-1))
    return facets[0].reshape(-1) if facets else no_atoms(1)


def _grouped(
    t: "Tracer",
    mine: Tensor,
    outs: list[Tensor],
    ins: list[Tensor],
    groups: int,
    transposed: bool,
    x: Tensor,
    out: Tensor,
) -> Tensor:
    """A group of a grouped convolution goes whole: what it reads and what it makes.

    The rows of a transposed one are channels that it reads, and its columns are shared by groups.
    """
    rows = ins if transposed else outs
    for ids in outs if transposed else ins:
        t.ties.fix(ids, "")
    depthwise = x.shape[1] == groups
    made = _one(t, rows, "each" if depthwise else "out").expand(
        x.shape[1] if transposed else out.shape[1]
    )
    heads = t.ties.tie_along(made.reshape(groups, -1), 1)
    read = t.ties.tie_along(mine.expand(x.shape[1]).reshape(groups, -1), 1)
    because = "a depthwise" if depthwise else "a grouped"
    t.ties.tie(read, heads, t.where(f"{because} convolution"))
    return heads.expand(groups, out.shape[1] // groups).reshape(-1)


def _out(made: Tensor, dims: int, dim: int, carried: list[Tensor]) -> tuple[Tensor, ...]:
    facets = [*carried] + ([row(made, dims, dim)] if len(made) > 1 else [])
    return tuple(compact(ids) for ids in facets if varying(ids))


@rule("mm", "addmm", "linear")
def matrix(t: "Tracer", op: Operation) -> None:
    """(n, k) with (k, m); ``addmm`` adds a bias first, ``linear`` takes the weight as (m, k)."""
    if op.name == "linear":
        x, weight, bias = op.args[0], op.args[1], op.argument(2, "bias")
        theirs = [ids.movedim(0, 1) for ids in t.facets(weight)]
    else:
        bias, x, weight = (None, *op.args[:2]) if op.name == "mm" else op.args[:3]
        theirs = list(t.facets(weight))
    last, because = x.dim() - 1, t.where("a matrix product")
    ours, carried = along(t.facets(x), last)
    ins, rest = along(theirs, 0)
    for ids in ours:
        for dim in range(last):
            if ids.shape[dim] > 1 and not ins:
                ids = t.ties.tie_along(ids, last)
                break
        for other in ins:
            line = row(other.reshape(-1), x.dim(), last)
            t.ties.tie(ids, line, because if t.is_fed(weight) else "")
        if not ins:
            t.ties.fix(ids, f"{because} mixes them all")
    for ids in ins:
        if not t.is_fed(weight):
            t.role(ids, "in")
        if not ours:
            t.ties.fix(ids, READS_INPUT)
    made = _one(t, [i for i in rest if i.shape[1] > 1], "out" if not t.is_fed(weight) else "each")
    if isinstance(bias, Tensor):
        for ids in t.facets(bias):
            if not t.is_fed(bias):
                t.role(ids, "shift")
            t.ties.tie(ids.reshape(-1), made)
    if not t.is_fed(weight):
        t.use(weight, math.prod(x.shape[:-1]) / t.batch)
        name = t.name(weight)
        if name is not None:
            t.made_by[id(op.out)] = name
    elif not t.is_fed(x):
        t.use(x, op.out.shape[-1] / t.batch)
    else:
        flat = [ids[None] for ids in t.facets(x) if x.dim() == 2]
        t.product(math.prod(op.out.shape) * x.shape[-1], _joint(flat, [i[None] for i in theirs]))
    t.put(op.out, merged(t, list(_out(made, x.dim(), last, carried))))


@rule("bmm", "baddbmm")
def batched(t: "Tracer", op: Operation) -> None:
    """(b, n, k) with (b, k, m): heads along b go whole, as queries and keys do along k."""
    a, b = op.args[-2:] if op.name == "bmm" else op.args[1:3]
    count = math.prod(a.shape) * b.shape[2]
    if t.is_fed(a) and t.is_fed(b):
        t.product(count, _joint(t.facets(a), t.facets(b)))
    for weight, reading in ((a, 2), (b, 1)):
        if not t.is_fed(weight):
            for ids in t.facets(weight):
                made = ids.shape[3 - reading] > 1
                t.role(ids, "in" if ids.shape[reading] > 1 else "out" if made else "each")
            t.use(weight, count / t.elements(weight) / t.batch)
    found = contracted(t, list(t.facets(a)), list(t.facets(b)))
    if op.name == "baddbmm":
        found += [ids for ids in t.facets(op.args[0]) if ids.dim() == 3]
    t.put(op.out, merged(t, found, t.where("a matrix product")))


def _joint(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> list[Tensor]:
    """Facets of (b, n, k) and of (b, k, m) as facets of (b, n, k, m), where they multiply."""
    return [ids.unsqueeze(3) for ids in ours] + [ids.unsqueeze(1) for ids in theirs]


def contracted(t: "Tracer", ours: list[Tensor], theirs: list[Tensor]) -> list[Tensor]:
    """Facets of the product of (b, n, k) and (b, k, m)."""
    because = t.where("a matrix product")
    left, carried_left = along(ours, 2)
    right, carried_right = along(theirs, 1)
    left = [t.ties.tie_along(ids, 1) for ids in left]
    right = [t.ties.tie_along(ids, 2) for ids in right]
    for ids in left:
        for other in right:
            t.ties.tie(ids, other.movedim(1, 2), because)
    found = [*carried_left, *carried_right]
    alone = [*(left if not right else []), *(right if not left else [])]
    for ids in alone:
        if ids.shape[0] == 1:
            t.ties.fix(ids, f"{because} mixes them all")
    for ids in [*left, *(i.movedim(1, 2) for i in right)]:
        if ids.shape[0] > 1:
            found.append(t.ties.tie_along(ids, 2))
    return [ids for ids in found if varying(ids)]


@rule(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_attention_math",
    "scaled_dot_product_attention",
    "_scaled_dot_product_attention_math_for_mps",
)
def attention(t: "Tracer", op: Operation) -> None:
    """Queries, keys and values of a head go together, and whole."""
    q, k, v = op.args[:3]
    out = op.out if isinstance(op.out, Tensor) else op.out[0]
    if q.dim() != 4 or q.shape[1] != k.shape[1]:
        for x in (q, k, v):
            for ids in t.facets(x):
                t.ties.fix(ids, f"{t.where('attention')} of such shapes is not followed")
        return

    def flat(x: Tensor, swap: bool = False) -> list[Tensor]:
        found = []
        for ids in t.facets(x):
            wide = ids.expand(x.shape[0], x.shape[1], *ids.shape[2:])
            wide = wide.reshape(-1, *ids.shape[2:])
            found.append(compact(wide.transpose(1, 2) if swap else wide))
        return found

    size = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
    t.product(size * q.shape[3], _joint(flat(q), flat(k, swap=True)))
    logits = contracted(t, flat(q), flat(k, swap=True))
    mask = op.kwargs.get("attn_mask", op.kwargs.get("attn_bias"))
    if isinstance(mask, Tensor) and mask.dim() == 4 and t.facets(mask):
        logits += [i for i in flat(mask) if i.shape[0] == q.shape[0] * q.shape[1]]
    logits = list(merged(t, logits))
    t.product(size * v.shape[3], _joint(logits, flat(v)))
    found = contracted(t, logits, flat(v))
    merged_found = merged(t, found, t.where("attention"))
    shaped = []
    for ids in merged_found:
        wide = ids.expand(q.shape[0] * q.shape[1], *ids.shape[1:])
        shaped.append(compact(wide.reshape(q.shape[0], q.shape[1], *ids.shape[1:])))
    t.put(out, tuple(shaped))


@rule("embedding", "embedding_bag")
def embedding(t: "Tracer", op: Operation) -> None:
    """Rows are picked by number and stay; columns are channels."""
    found = []
    for ids in t.facets(op.args[0]):
        if ids.shape[0] > 1:
            t.ties.fix(ids, "")
        else:
            t.role(ids, "out")
            found.append(row(ids.reshape(-1), op.out.dim(), op.out.dim() - 1))
    t.put(op.out, tuple(found))

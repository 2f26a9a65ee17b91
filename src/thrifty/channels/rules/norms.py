"""Normalisation: by channel it scales each channel by itself; over channels it mixes them."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from thrifty.channels.labels import aligned, row, varying
from thrifty.channels.rules import Operation, rule
from thrifty.channels.rules.reductions import mixed

if TYPE_CHECKING:
    from thrifty.channels.trace import Tracer


@rule(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_batch_norm_with_update",
    "_batch_norm_no_update",
    "batch_norm",
)
def batch_norm(t: "Tracer", op: Operation) -> None:
    """Scale, shift and statistics of a channel go with it."""
    x, out = op.args[0], op.out if isinstance(op.out, Tensor) else op.out[0]
    others = {d for d in range(x.dim()) if d != 1}
    found = []
    own = [p for p in op.args[1:5] if isinstance(p, Tensor)]
    fed = t.is_fed(x)  # else it is a weight, which batch norm standardises
    for ids in t.facets(x):
        rest = mixed(t, ids, others - {0}, "batch norm") if not fed else _of_channels(t, ids)
        if rest is not None and varying(rest):
            found.append(rest)
    for p, role in zip(own, _roles(op.args[1:5]), strict=True):
        for ids in t.facets(p):
            t.role(ids, role)
            line = row(ids.reshape(-1), x.dim(), 1)
            if not any(f.shape[1] > 1 for f in found):
                t.ties.fix(ids, "")
            for other in found:
                if other.shape[1] > 1:
                    t.ties.tie(other, line)
    if id(x) in t.made_by:
        weight, mean = t.made_by[id(x)], op.args[3]
        name = t.name(mean) if isinstance(mean, Tensor) else None
        seen = t.trace.norm_after.get(weight, name)
        t.trace.norm_after[weight] = name if seen == name else None
    t.put(out, tuple(found))


def _of_channels(t: "Tracer", ids: Tensor) -> Tensor:
    """A facet of activations: positions of one channel share its scale."""
    for dim in varying(ids):
        if dim > 1 and ids.shape[1] > 1:
            ids = t.ties.tie_along(ids, dim)
    return ids


def _roles(args: tuple[Any, ...]) -> list[str]:
    names = ("scale", "shift", "stat", "stat")
    return [role for p, role in zip(args, names, strict=False) if isinstance(p, Tensor)]


@rule("_weight_norm_interface", "_weight_norm")
def weight_norm(t: "Tracer", op: Operation) -> None:
    """Directions over their norm times a length: filters of zeros would be divided by zero."""
    v, g, dim = op.args[0], op.args[1], int(op.argument(2, "dim", 0))
    out = op.out if isinstance(op.out, Tensor) else op.out[0]
    found = [mixed(t, ids, set(range(v.dim())) - {dim}, "weight norm") for ids in t.facets(v)]
    for ids in found:
        if ids is not None:
            t.ties.fix(ids, f"{t.where('weight norm')} divides by the norm of filters; remove it")
    for ids in t.facets(g):
        t.role(ids, "scale")
        for other in found:
            if other is not None:
                t.ties.tie(other, ids)
    t.put(out, tuple(ids for ids in found if ids is not None and varying(ids)))


@rule("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(t: "Tracer", op: Operation) -> None:
    """Over channels, a zero counts in the mean: they stay whole."""
    x, shape = op.args[0], op.args[1]
    out = op.out if isinstance(op.out, Tensor) else op.out[0]
    over = set(range(x.dim() - len(shape), x.dim()))
    found = [mixed(t, ids, over, "layer norm") for ids in t.facets(x)]
    for p in op.args[2:4]:
        if isinstance(p, Tensor):
            for ids in t.facets(p):
                t.role(aligned(ids, x.dim()), "each")
                t.ties.fix(ids, f"{t.where('layer norm')} mixes them all")
    t.put(out, tuple(ids for ids in found if ids is not None and varying(ids)))


@rule("native_group_norm", "group_norm")
def group_norm(t: "Tracer", op: Operation) -> None:
    """With a group a channel nothing is mixed; else a zero counts in the mean of its group."""
    x, weight, bias = op.args[0], op.args[1], op.args[2]
    channels, groups = x.shape[1], int(op.args[6] if op.name == "native_group_norm" else op.args[1])
    out = op.out if isinstance(op.out, Tensor) else op.out[0]
    found = []
    for ids in t.facets(x):
        rest = _of_channels(t, ids)
        if groups != channels and rest.shape[1] > 1:
            t.ties.fix(rest, f"{t.where('group norm')} mixes channels of a group")
        elif varying(rest):
            found.append(rest)
    for p, role in ((weight, "scale"), (bias, "shift")):
        if isinstance(p, Tensor):
            for ids in t.facets(p):
                t.role(ids, role)
                if not found:
                    t.ties.fix(ids, "")
                for other in found:
                    t.ties.tie(other, row(ids.reshape(-1), x.dim(), 1))
    t.put(out, tuple(found))

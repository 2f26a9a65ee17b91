"""Sums, means and maxima over dimensions, softmax, and pooling."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from thrifty.channels.labels import compact, varying
from thrifty.channels.rules import Operation, rule

if TYPE_CHECKING:
    from thrifty.channels.trace import Tracer


@rule(
    "mean",
    "sum",
    "amax",
    "amin",
    "max",
    "min",
    "prod",
    "std",
    "var",
    "var_mean",
    "std_mean",
    "logsumexp",
    "norm",
    "linalg_vector_norm",
    "any",
    "all",
    "argmax",
    "argmin",
)
def reduced(t: "Tracer", op: Operation) -> None:
    """Over positions channels stay; over channels alone they are mixed and stay whole."""
    from thrifty.channels.trace import tensors_in

    x = op.args[0]
    outs = tensors_in([op.out])
    if len(op.args) > 1 and isinstance(op.args[1], Tensor):  # the binary form of max and min
        from thrifty.channels.rules.pointwise import elementwise

        return elementwise(t, op)
    index = 2 if op.name in ("linalg_vector_norm", "norm") else 1
    dims = _dims(op.argument(index, "dim"), x.dim())
    found = []
    for ids in t.facets(x):
        rest = mixed(t, ids, dims, op.name)
        if rest is not None and varying(rest):
            for dim in sorted(dims, reverse=True):
                if outs[0].dim() < x.dim():
                    rest = rest.squeeze(dim)
            found.append(rest)
    for out in outs:
        t.put(out, tuple(found) if out.shape == outs[0].shape else ())
    return None


def mixed(t: "Tracer", ids: Tensor, dims: set[int], name: str) -> Tensor | None:
    """A facet when elements along ``dims`` become one, or each depends on all of them.

    If it also changes along other dimensions, as heads do beside their channels, whole fibres
    may go and their atoms are tied; if not, the atoms stay whole and there is no facet left.
    """
    inside = dims & set(varying(ids))
    if inside and inside == set(varying(ids)):
        t.ties.fix(ids, f"{t.where(name)} mixes them all")
        return None
    for dim in inside:
        ids = t.ties.tie_along(ids, dim)
    return ids


def _dims(said: Any, count: int) -> set[int]:
    if said is None or (isinstance(said, list | tuple) and not said):
        return set(range(count))
    if isinstance(said, int):
        said = [said]
    return {int(d) % count for d in said}


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax")
def softmax(t: "Tracer", op: Operation) -> None:
    """Every element depends on all along the dimension."""
    x = op.args[0]
    dims = _dims(op.args[1], x.dim())
    found = [mixed(t, ids, dims, "softmax") for ids in t.facets(x)]
    t.put(op.out, tuple(ids for ids in found if ids is not None and varying(ids)))


@rule(
    *(f"{kind}_pool{n}d" for kind in ("avg", "_adaptive_avg", "adaptive_avg") for n in (1, 2, 3)),
    *(f"{kind}_pool{n}d" for kind in ("max", "adaptive_max", "fractional_max") for n in (1, 2, 3)),
    *(f"max_pool{n}d_with_indices" for n in (1, 2, 3)),
    *(f"upsample_nearest{n}d" for n in (1, 2, 3)),
    *(f"_upsample_nearest_exact{n}d" for n in (1, 2, 3)),
    "upsample_linear1d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "upsample_trilinear3d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
    "grid_sampler_2d",
)
def pooled(t: "Tracer", op: Operation) -> None:
    """Positions are pooled or resampled; channels, the second dimension, stay what they are."""
    from thrifty.channels.trace import tensors_in

    x = op.args[0]
    number = 3 if "3d" in op.name else 1 if "1d" in op.name else 2
    places = set(range(x.dim() - number, x.dim()))
    found = []
    for ids in t.facets(x):
        rest = mixed(t, ids, places, op.name)
        if rest is not None and varying(rest):
            found.append(compact(rest))
    outs = tensors_in([op.out])
    t.put(outs[0], tuple(found))

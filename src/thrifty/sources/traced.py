"""Which batch normalisation follows which layer of a module, found in a symbolic trace of it.

A normalisation is paired with the layer before it if it gets that layer's output, nothing else
does, and each of the two is called once; then the two can be folded into one.  Only layers whose
arithmetic is known are paired: a subclass of a convolution may do anything with its weight.
"""

import warnings
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from thrifty.sources.stored import Norm

if TYPE_CHECKING:
    from torch import fx, nn

LAYERS = ("Linear",) + tuple(f"Conv{way}{axes}d" for way in ("", "Transpose") for axes in (1, 2, 3))
"""Classes of torch that compute a convolution or a matrix product and nothing else."""

LAYERS_OF_OTHERS = ("timm.layers.conv2d_same.Conv2dSame", "timm.layers.linear.Linear")
NORMS_OF_OTHERS = (
    "timm.layers.norm_act.BatchNormAct2d",
    "timm.layers.norm_act.SyncBatchNormAct",
    "timm.layers.norm_act.FrozenBatchNormAct2d",
    "torchvision.ops.misc.FrozenBatchNorm2d",
)
"""Classes of other packages that do the same arithmetic first; what follows does not matter."""


def is_norm(module: "nn.Module") -> bool:
    """Whether the weight of ``module`` is a scale and its bias a shift: a normalisation."""
    from torch import nn

    known = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
    return isinstance(module, known) or "norm" in type(module).__name__.lower()


def norms_of(module: "nn.Module", names: Collection[str]) -> tuple[Norm, ...] | None:
    """Which batch normalisation of ``module`` follows which layer; None if it cannot be traced.

    Args:
        module: it is traced in the mode in which it is, and not changed.
        names: of the tensors that there are; pairs with others are left out.
    """
    modules = dict(module.named_modules())
    if not any(_is_batch_norm(m) for m in modules.values()):
        return ()
    graph = _traced(module)
    if graph is None:
        return None
    first = {id(m): path for path, m in modules.items()}  # a shared module has several names
    calls: dict[str, list[Any]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            path = first[id(module.get_submodule(str(node.target)))]
            calls.setdefault(path, []).append(node)
    paths = {node: path for path, nodes in calls.items() for node in nodes}
    found = []
    for path, (node, *others) in calls.items():
        if others or not _is_batch_norm(modules[path]):
            continue
        before = node.args[0] if node.args else None
        layer = paths.get(before)
        if before is None or layer is None or len(before.users) > 1 or len(calls[layer]) > 1:
            continue
        pair = _pair(layer, modules[layer], path, modules[path])
        if pair is not None and pair.weight in names:
            found.append(pair)
    return tuple(found)


def _traced(module: "nn.Module") -> "fx.Graph | None":
    from torch import fx

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: "nn.Module", qualified_name: str) -> bool:
            return _is_batch_norm(m) or _is_layer(m) or super().is_leaf_module(m, qualified_name)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Tracer().trace(module)
    except Exception:  # whatever the user's own forward raises when it is given no numbers
        return None


def _is_batch_norm(module: "nn.Module") -> bool:
    from torch import nn

    known = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return type(module) in known or _full_name(module) in NORMS_OF_OTHERS


def _is_layer(module: "nn.Module") -> bool:
    from torch import nn

    own = type(module) in tuple(getattr(nn, name) for name in LAYERS)
    return own or _full_name(module) in LAYERS_OF_OTHERS


def _full_name(module: "nn.Module") -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _pair(layer: str, module: Any, path: str, norm: Any) -> Norm | None:
    """The two as tensors, if both have what folding needs."""
    if not _is_layer(module) or getattr(norm, "running_var", None) is None:
        return None
    weight = module._parameters.get("weight")
    axis = 1 if getattr(module, "transposed", False) else 0
    if weight is None or weight.shape[axis] != len(norm.running_var):
        return None

    def name(owner: Any, at: str, last: str) -> str | None:
        return f"{at}.{last}".lstrip(".") if getattr(owner, last, None) is not None else None

    return Norm(
        weight=f"{layer}.weight",
        bias=name(module, layer, "bias"),
        scale=name(norm, path, "weight"),
        shift=name(norm, path, "bias"),
        mean=name(norm, path, "running_mean"),
        variance=name(norm, path, "running_var"),
        eps=norm.eps,
    )

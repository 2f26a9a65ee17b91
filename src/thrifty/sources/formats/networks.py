"""Networks by name, and modules in memory: ``resnet20``, ``torchvision:alexnet``, your own.

Tensors are views of the module's own; nothing is copied.  What each is for is known from the
module that holds it, and which batch normalisation follows which weight from its graph, where
torch.fx can trace it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from thrifty.errors import UserError
from thrifty.registry import parse_spec
from thrifty.sources import BITS, PIECE, SOURCES, Norm, Reader, Source, Stored
from thrifty.sources.stored import Bits

if TYPE_CHECKING:
    from torch import Tensor, nn

PUBLISHED = ("weights", "pretrained")
RANDOM = "random weights as built, no training; published ones are asked for with ?{}"


def open_network(text: str) -> Source:
    """The tensors of the network that ``text`` names.

    Raises:
        UserError: there is no such network, or its published weights cannot be had.
    """
    from thrifty.nets import resolve

    module = resolve(text)
    return of_module(module, text, notes=_about(text))


def of_module(module: "nn.Module", label: str, notes: tuple[str, ...] = ()) -> Source:
    """The tensors of a module, as it is; a tensor of several names is counted once."""
    from torch import nn

    if not isinstance(module, nn.Module):
        raise UserError(
            f"{type(module).__name__} is no network; give a path, a name or a torch.nn.Module"
        )
    tensors, tied = [], []
    seen: dict[int, str] = {}
    for prefix, part in module.named_modules():
        own = {**part._parameters, **part._buffers}
        for key, x in own.items():
            if x is None or key in part._non_persistent_buffers_set:
                continue
            name = f"{prefix}.{key}" if prefix else key
            if id(x) in seen:
                tied.append(f"{name} is {seen[id(x)]}")
                continue
            seen[id(x)] = name
            tensors.append(_stored(name, x, part, key))
    said = (f"counted once: {'; '.join(tied[:8])}",) if tied else ()
    return Source(label, "module", tuple(tensors), notes=(*notes, *said), norms=_norms(module))


def _about(text: str) -> tuple[str, ...]:
    if ":" not in text:
        from thrifty.nets import file_of

        return () if file_of(text) else (RANDOM.format("").rpartition(";")[0],)
    spec = parse_spec(text)
    if not spec.name.startswith(("torchvision:", "timm:")):
        return ()
    if any(spec.options.get(key) for key in PUBLISHED):
        return ()
    return (
        RANDOM.format("weights=DEFAULT" if spec.name.startswith("torch") else "pretrained=true"),
    )


def _stored(name: str, x: "Tensor", part: "nn.Module", key: str) -> Stored:
    from torch import nn

    transposed = isinstance(part, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    return Stored(
        name,
        tuple(x.shape),
        _dtype(name, x),
        lambda: _pieces(x),
        out_axis=1 if transposed and key == "weight" else 0,
        role=_role(x, part, key),
    )


def _role(x: "Tensor", part: "nn.Module", key: str) -> str:
    from torch import nn

    if key in part._buffers:
        return "statistic"
    if x.dim() > 1:
        return "weight"
    norms = nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm
    if isinstance(part, norms) or "norm" in type(part).__name__.lower():
        return {"weight": "scale", "bias": "shift"}.get(key, "other")
    return "bias" if key.startswith("bias") or key.endswith("bias") else "other"


def _dtype(name: str, x: "Tensor") -> str:
    import torch

    known = {
        torch.float64: "F64",
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.float8_e4m3fn: "F8_E4M3",
        torch.float8_e5m2: "F8_E5M2",
        torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
        torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
        torch.int8: "I8",
        torch.uint8: "U8",
        torch.int16: "I16",
        torch.int32: "I32",
        torch.int64: "I64",
        torch.bool: "BOOL",
    }
    if x.dtype not in known or x.is_meta or x.layout is not torch.strided:
        raise UserError(f"{name} is {x.dtype}, {x.layout}, on {x.device}, and cannot be counted")
    return known[x.dtype]


def _pieces(x: "Tensor") -> Iterator[Bits]:
    import torch

    flat = x.detach().reshape(-1)
    step = max(1, PIECE // flat.element_size())
    as_integers = {1: torch.uint8, 2: torch.int16}
    dtype = BITS[_dtype("", x)]
    for start in range(0, flat.numel(), step):
        piece = flat[start : start + step].to("cpu")
        if piece.dtype not in (torch.float16, torch.bool) and piece.element_size() < 4:
            piece = piece.view(as_integers[piece.element_size()])
        yield np.asarray(piece.numpy()).view(dtype)


def _norms(module: "nn.Module") -> tuple[Norm, ...] | None:
    """Batch normalisations whose input is a layer's output that goes nowhere else."""
    graph = _traced(module)
    if graph is None:
        return None
    from torch import nn

    parts = dict(module.named_modules())
    layers = (nn.modules.conv._ConvNd, nn.Linear)
    found = []
    for node in graph.nodes:
        part = parts.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(part, nn.modules.batchnorm._BatchNorm) or not node.args:
            continue
        before = node.args[0]
        layer = parts.get(str(getattr(before, "target", None)))
        if getattr(before, "op", "") != "call_module" or len(before.users) != 1:
            continue
        if isinstance(layer, layers):
            found.append(_norm(str(before.target), layer, str(node.target), part))
    return tuple(found)


def _norm(name: str, layer: "nn.Module", norm_name: str, norm: Any) -> Norm:
    def named(key: str) -> str | None:
        return f"{norm_name}.{key}" if getattr(norm, key) is not None else None

    bias = f"{name}.bias" if layer.bias is not None else None
    scale, shift, mean, variance = map(named, ("weight", "bias", "running_mean", "running_var"))
    return Norm(f"{name}.weight", bias, scale, shift, mean, variance, norm.eps)


def _traced(module: "nn.Module") -> Any:
    """The graph of the module, None where torch.fx cannot follow it."""
    import warnings

    from torch import fx

    training = {part: part.training for part in module.modules()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return fx.Tracer().trace(module.eval())
    except Exception:  # of whatever the module's forward does with a proxy
        return None
    finally:
        for part, mode in training.items():
            part.training = mode


SOURCES.add(
    "networks",
    Reader(
        "Networks by name: built in, torchvision:, timm:, package.module:factory",
        open_network,
        prefix="network",
    ),
)

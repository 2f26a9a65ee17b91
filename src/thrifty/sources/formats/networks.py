"""Networks by name or as modules: their tensors where they lie in memory, with nothing copied.

A network that is built for this has random weights unless published ones are asked for, and says
so.  A module knows what a file only names: which tensors belong to a normalisation, which share
memory, and, from a symbolic trace, which normalisation follows which layer.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from thrifty.errors import UserError
from thrifty.sources import BITS, PIECE, SOURCES, Quantised, Reader, Source, Stored
from thrifty.sources.stored import DTYPES, Bits
from thrifty.sources.traced import is_norm, norms_of

if TYPE_CHECKING:
    from torch import Tensor, nn

SEED = 0
"""Of the weights that are drawn, so that a look at them is the same every time."""

RANDOM = "random weights as built (no training)"

PUBLISHED = {
    "torchvision": ("weights", "?weights=DEFAULT"),
    "timm": ("pretrained", "?pretrained=true"),
}
"""The option that asks for published weights, and how it is written."""

OUT_AXIS_1 = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Conv1D")
"""Classes whose weights are (in, out, ...); Conv1D is the linear layer of transformers' GPT-2."""

_SEEN = 4


def open_network(text: str) -> Source:
    """The network that ``text`` names, built: built in, ``torchvision:``, ``timm:``, a factory.

    Raises:
        UserError: there is no such network, or its published weights cannot be had.
        MissingExtra: the package that has it is not installed.
    """
    import torch

    from thrifty.nets.build import build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module = build(text, None, None)
    source = of_module(module, text)
    kind, notes = _origin(text)
    return replace(source, kind=kind, notes=(*notes, *source.notes))


def of_module(module: "nn.Module", label: str) -> Source:
    """The parameters and buffers of ``module``; they are read when they are asked for.

    Tensors lie in the order of its state dict, and one that has several names is there once.
    Nothing is copied, except piece by piece what is not contiguous or on another device.

    Raises:
        UserError: it is no module, has no tensors, or has some without memory.
    """
    from torch import Tensor, nn

    if not isinstance(module, nn.Module):
        raise UserError(
            f"{type(module).__name__} is no source of weights; give a file, a folder, the name of "
            f"a network or a torch.nn.Module"
        )
    state = module.state_dict(keep_vars=True)
    tensors = {name: x for name, x in state.items() if isinstance(x, Tensor)}
    _check_memory(tensors, label)
    tied = _tied(tensors)
    odd = {n: x for n, x in tensors.items() if _dtype(x) not in DTYPES and n not in tied}
    owners = dict(module.named_modules(remove_duplicate=False))
    kept = {n: x for n, x in tensors.items() if n not in tied and n not in odd}
    stored = tuple(_stored(name, x, owners) for name, x in kept.items())
    if not stored:
        raise UserError(f"{label} ({type(module).__name__}) has no parameters and no buffers")
    return Source(
        label=label,
        kind="module",
        tensors=stored,
        notes=(*_tied_notes(tied), *_odd_notes(odd)),
        norms=norms_of(module, kept),
    )


def _origin(text: str) -> tuple[str, tuple[str, ...]]:
    """The kind of source, and whether its weights are random or published."""
    from thrifty.registry import parse_spec

    spec = parse_spec(text)
    zoo, colon, name = spec.name.partition(":")
    if zoo in PUBLISHED:
        option, written = PUBLISHED[zoo]
        asked = spec.options.get(option)
        note = _published(zoo, name, str(asked)) if asked else f"{RANDOM}; ask for {written}"
        return zoo, (note,)
    return ("factory", ()) if colon else ("network", (f"{RANDOM}; give a file to look at others",))


def _published(zoo: str, name: str, asked: str) -> str:
    """Which weights those are that were asked for; ``DEFAULT`` stands for others in time."""
    if zoo != "torchvision":
        return f"published weights of {zoo}"
    from thrifty._compat import import_torchvision

    weights = import_torchvision().models.get_model_weights(name)[asked]
    return f"published weights of torchvision, {weights.name}"


def _check_memory(tensors: "dict[str, Tensor]", label: str) -> None:
    from torch.nn.parameter import is_lazy

    for name, x in tensors.items():
        if is_lazy(x):
            raise UserError(f"{label}: {name} has no shape yet; run the network once, then look")
        if x.is_meta:
            raise UserError(
                f"{label}: {name} is on the device 'meta' and has no numbers; build the network on "
                f"another device"
            )


def _tied(tensors: "dict[str, Tensor]") -> dict[str, str]:
    """Every later name of a tensor to its first: one object, or one place in memory."""
    first: dict[object, str] = {}
    tied = {}
    for name, x in tensors.items():
        key: object = id(x)
        if str(x.layout) == "torch.strided" and x.numel():
            key = (x.device, x.data_ptr(), x.dtype, x.shape, x.stride())
        if first.setdefault(key, name) != name:
            tied[name] = first[key]
    return tied


def _tied_notes(tied: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{name} is {first}, and counted once" for name, first in tied.items())


def _odd_notes(odd: "dict[str, Tensor]") -> tuple[str, ...]:
    if not odd:
        return ()
    named = ", ".join(f"{name} ({_dtype(x)})" for name, x in list(odd.items())[:_SEEN])
    more = f" and {len(odd) - _SEEN} more" if len(odd) > _SEEN else ""
    return (f"left out, for their dtypes cannot be counted: {named}{more}",)


def _dtype(x: "Tensor") -> str:
    return str(x.dtype).removeprefix("torch.")


def _stored(name: str, x: "Tensor", owners: "dict[str, nn.Module]") -> Stored:
    path, _, last = name.rpartition(".")
    owner = owners.get(path)
    kind = type(owner).__name__
    return Stored(
        name=name,
        shape=tuple(x.shape),
        dtype=DTYPES[_dtype(x)],
        read=lambda: pieces(x),
        quantised=_quantised(x),
        out_axis=1 if kind in OUT_AXIS_1 and last == "weight" else 0,
        role=_role(x, last, owner),
    )


def _role(x: "Tensor", last: str, owner: "nn.Module | None") -> str | None:
    """By the module that owns the tensor; ``None`` leaves it to the name."""
    from torch import nn

    if last == "num_batches_tracked":
        return "other"
    if last in ("running_mean", "running_var"):
        return "statistic"
    if owner is not None and is_norm(owner):
        return {"weight": "scale", "bias": "shift"}.get(last)
    if not (isinstance(x, nn.Parameter) or x.is_quantized):
        return "other"
    if x.dim() > 1:
        return "weight"
    return "bias" if "bias" in last else None


def pieces(x: "Tensor") -> Iterator[Bits]:
    """The elements of ``x`` in row-major order; views of its memory where that is contiguous."""
    import torch

    x = x.detach()
    if x.layout != torch.strided:
        x = x.to_dense()
    if x.is_quantized:
        x = x.int_repr()
    bits = BITS[DTYPES[_dtype(x)]]
    step = max(PIECE // bits.itemsize, 1)
    if x.device.type == "cpu" and x.is_contiguous() and not (x.is_neg() or x.is_conj()):
        flat = x.view(-1)
        for start in range(0, len(flat), step):
            yield _array(flat[start : start + step], bits)
        return
    if x.numel() <= step or x.dim() < 2:
        yield _array(x.cpu().contiguous().resolve_neg().view(-1), bits)
        return
    rows = max(step * len(x) // x.numel(), 1)
    for part in torch.split(x, rows):
        yield _array(part.cpu().contiguous().resolve_neg().view(-1), bits)


def _array(flat: "Tensor", bits: np.dtype[Any]) -> Bits:
    import torch

    if flat.dtype.is_floating_point and bits.kind == "u":
        flat = flat.view(torch.uint8 if bits.itemsize == 1 else torch.uint16)
    return flat.numpy()


def _quantised(x: "Tensor") -> Quantised | None:
    """How the integers of torch's own quantised tensors stand for numbers."""
    import torch

    if not x.is_quantized:
        return None
    if x.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        scale, zero = np.float64(x.q_scale()), np.float64(x.q_zero_point())
        return Quantised(np.asarray(scale), np.asarray(zero))
    scales, zeros = x.q_per_channel_scales(), x.q_per_channel_zero_points()
    return Quantised(scales.double().numpy(), zeros.double().numpy(), x.q_per_channel_axis())


SOURCES.add(
    "networks",
    Reader(
        about="Networks by name, built: ours, torchvision:NAME, timm:NAME, package.module:factory",
        open=open_network,
        prefix="network",
    ),
)

"""What goes into a file: the tensors of a network, each once, and the strings of the header."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.nets.architecture import architecture_of
from thrifty.nets.fit import check_finite
from thrifty.nets.shrunk import shrunk_of
from thrifty.nets.stored import described

OURS = ("program", "thrifty")
"""Entries of the metadata that a caller may not give."""

CONSTANT = "program:"
"""What the names of constants begin with."""


class Contents(NamedTuple):
    """Tensors and strings that a format writes."""

    tensors: dict[str, Tensor]
    """By name; dense, contiguous, on the CPU, sharing memory with nothing."""
    metadata: dict[str, str]
    """The entry ``thrifty`` names the network and the tied tensors; the rest is the caller's."""
    masks: dict[str, Tensor]
    """Bool, True where a weight is kept; ``tensors`` are zero elsewhere already."""
    model: nn.Module | None = None
    """The network itself, for formats that hold operations; not to be changed.  Its weights are
    those before the masks."""
    example: Tensor | None = None
    """Inputs as it takes them, batch first; one is drawn where the network says its shape."""
    values: str = "f32"
    """What weights are stored as: ``f32`` (as they are), ``bf16``, ``f16`` or ``int8``."""
    program: Mapping[str, Any] | None = None
    """The lowered graph, as JSON could hold it."""
    constants: Mapping[str, Tensor] = MappingProxyType({})
    """Tensors of the program that are none of the network; names begin with ``program:``."""


def contents(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    path: str,
    example: Tensor | None = None,
) -> Contents:
    """The tensors of ``model`` under ``masks``; ``path`` is named in errors.

    Raises:
        UserError: a mask or an entry of ``metadata`` does not fit, or a weight is not finite.
    """
    shrunk = shrunk_of(model)
    state = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    if shrunk is not None:
        buffers = dict(model.named_buffers())
        state.update({name: buffers[name] for name in shrunk.buffers if name in buffers})
    tied = _tied(state)
    _check_metadata(metadata)
    kept: dict[str, Tensor] = {}
    for name, mask in masks.items():
        _check_mask(name, mask, state)
        name = tied.get(name, name)
        kept[name] = mask.cpu() & kept[name] if name in kept else mask.cpu()
    tensors = {}
    for name, x in state.items():
        if name in tied:
            continue
        x = x.detach().cpu().clone(memory_format=torch.contiguous_format)
        tensors[name] = x.masked_fill_(~kept[name], 0) if name in kept else x
    check_finite(tensors, path)
    header = {**metadata, "thrifty": described(architecture_of(model), tied, shrunk)}
    return Contents(tensors, header, kept, model, example)


def _tied(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Every later name of a tensor to its first: same memory, shape and strides."""
    first: dict[tuple[object, ...], str] = {}
    tied = {}
    for name, x in state.items():
        if x.numel() == 0:
            continue
        key = (x.device, x.data_ptr(), x.dtype, x.shape, x.stride())
        if first.setdefault(key, name) != name:
            tied[name] = first[key]
    return tied


def _check_mask(name: str, mask: Tensor, state: Mapping[str, Tensor]) -> None:
    if name not in state:
        raise UserError(f"there is a mask for {name!r}, and the network has no such tensor")
    if mask.shape != state[name].shape or mask.dtype != torch.bool:
        raise UserError(
            f"the mask of {name} is {mask.dtype} {tuple(mask.shape)}; a mask is torch.bool and of "
            f"the shape of its tensor, {tuple(state[name].shape)}"
        )


def _check_metadata(metadata: Mapping[str, str]) -> None:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise UserError(f"metadata has {key!r}: {value!r}; names and values are strings")
        if key in OURS:
            raise UserError(f"metadata has the entry {key!r}, which is ours; use another name")

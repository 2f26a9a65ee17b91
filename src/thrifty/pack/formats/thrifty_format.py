"""Our own ``.thrifty`` files: zeros left out, and each tensor read on its own.

docs/thrifty-format.md is the specification and :mod:`thrifty.container` writes and reads it.  The
entry ``program`` of the metadata is the lowered graph, if there is one.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from thrifty import container
from thrifty.container.encoding import Bits
from thrifty.errors import UserError
from thrifty.nets.reading import FLOATS
from thrifty.nets.stored import load_model
from thrifty.pack.contents import Contents
from thrifty.pack.saving import FORMATS, Format

_NAMES = {dtype: name for name, dtype in FLOATS.items()}
"""What numpy has no types for."""


def _write(held: Contents, path: Path) -> None:
    tensors = {**held.tensors, **held.constants}
    metadata = held.metadata
    if held.program is not None:
        program = json.dumps(held.program, sort_keys=True, separators=(",", ":"), allow_nan=False)
        metadata = {**metadata, "program": program}
    container.write(
        path,
        {name: array_of(name, x) for name, x in tensors.items()},
        metadata,
        held.values,
        dtypes={name: _NAMES[x.dtype] for name, x in tensors.items() if x.dtype in _NAMES},
        exact=held.constants.keys(),
    )


def array_of(name: str, x: Tensor) -> Bits:
    """A tensor on the CPU as numpy holds it; what it has no type for as unsigned integers.

    Raises:
        UserError: it is of a dtype that a file cannot hold, such as complex.
    """
    if x.dtype in _NAMES:
        return x.view(torch.uint8 if x.element_size() == 1 else torch.uint16).numpy()
    try:
        return x.numpy()
    except (TypeError, RuntimeError):
        raise UserError(
            f"{name} is {x.dtype}, which a .thrifty file cannot hold; save the network as "
            f".safetensors"
        ) from None


FORMATS.add(
    "thrifty",
    Format(
        about="Zeros left out, tensors packed one by one, in fewer bits if asked; for the engine",
        suffix=".thrifty",
        write=_write,
        read=load_model,
        packs=True,
    ),
)

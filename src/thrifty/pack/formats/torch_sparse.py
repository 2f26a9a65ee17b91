"""A state dict of torch in which a tensor is CSR or COO where that takes fewer bytes.

``torch.load(path, weights_only=True)`` reads it, and
``model.load_state_dict({k: v.to_dense() for k, v in state.items()})`` fills a network with it.
Every tensor keeps its name, shape and dtype.  CSR knows two dimensions, so convolutions are COO,
whose indices take 8 bytes for each dimension: below about nine zeros in ten they stay dense.
What was written is read again and compared number for number; negative zeros become zeros.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thrifty.errors import UserError
from thrifty.pack.contents import Contents
from thrifty.pack.saving import FORMATS, Format

INDEX = 8
"""Bytes of an index of COO, which torch always keeps in int64."""
SHORT = 4
"""Bytes of an index of CSR in int32."""
OVERHEAD = 512
"""Bytes that further tensors of a file take, for torch aligns each to 64 and lists it."""
LONGEST = torch.iinfo(torch.int32).max


def smallest(x: Tensor) -> Tensor:
    """``x`` as dense, CSR or COO, whichever takes the fewest bytes.

    Equal number for number: of a sparse tensor torch makes every zero positive.

    Args:
        x: dense, of any shape and dtype.
    """
    kept = x != 0
    count, width = int(kept.sum()), x.element_size()
    sizes = {"dense": x.numel() * width, "coo": count * (INDEX * x.dim() + width) + OVERHEAD}
    if x.dim() == 2 and x.numel() <= LONGEST:
        sizes["csr"] = count * (SHORT + width) + (x.shape[0] + 1) * SHORT + OVERHEAD
    best = min(sizes, key=lambda layout: sizes[layout])
    if best == "dense" or x.dim() == 0:
        return x
    places = kept.nonzero(as_tuple=True)
    if best == "coo":
        return torch.sparse_coo_tensor(
            torch.stack(places), x[places], x.shape, is_coalesced=True, check_invariants=True
        )
    rows = torch.zeros(x.shape[0] + 1, dtype=torch.int32)
    rows[1:] = kept.sum(1).cumsum(0)
    columns = places[1].to(torch.int32)
    return torch.sparse_csr_tensor(rows, columns, x[places], x.shape, check_invariants=True)


def _write(held: Contents, path: Path) -> Mapping[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that CSR is in beta, each time one is made
        state = {name: smallest(x) for name, x in _untied(held).items()}
        torch.save(state, path)
        again = torch.load(path, weights_only=True, map_location="cpu")
        _check_equal(again, held)
    layouts = [str(x.layout).removeprefix("torch.") for x in state.values()]
    counts = {f"{layout} tensors": layouts.count(layout) for layout in sorted(set(layouts))}
    return {**counts, "checked": "read back with weights_only=True, every number equal"}


def _untied(held: Contents) -> dict[str, Tensor]:
    """Every tensor under every name, so that load_state_dict misses none."""
    if held.model is None:
        return held.tensors
    tied = json.loads(held.metadata["thrifty"]).get("tied", {})
    return {**held.tensors, **{name: held.tensors[kept] for name, kept in tied.items()}}


def _check_equal(again: Mapping[str, Tensor], held: Contents) -> None:
    for name, x in held.tensors.items():
        back = again[name].to_dense() if name in again else None
        if back is None or back.dtype != x.dtype or not torch.equal(back, x):
            raise UserError(
                f"torch {torch.__version__} does not give back {name} ({x.dtype}, "
                f"{tuple(x.shape)}) as it was written; nothing was kept; export as safetensors"
            )


FORMATS.add(
    "torch_sparse",
    Format(
        about="A state dict of torch with CSR and COO tensors where smaller; only written",
        suffix=".sparse.pt",
        write=_write,
        read=None,
        instead="torch.load(path, weights_only=True) gives a state dict of sparse tensors",
    ),
)

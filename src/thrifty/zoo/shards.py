"""Writing shards: the models of a stack at one epoch, in one safetensors file.

Tensors lie stacked, ``(n, *shape)``, under the names that they have in a model, so that any
program that reads safetensors reads a zoo.  The metadata has one entry, for its order would not
be the same from run to run if there were two: files of equal content are equal bytes.

A sparse tensor lies as ``NAME.mask``, a bit an element, the lowest bit of a byte first, each
model beginning a byte; ``NAME.values``, what is kept of all models in order; and ``NAME.starts``,
where the values of each model begin.  Its shape stands in the metadata under ``sparse``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from thrifty.errors import UserError
from thrifty.files import written

KEY = "thrifty-zoo"
"""The entry of the metadata."""
MOST_MODELS = 16_384
"""Models of a shard; those of a stack that is trained are a few dozen, of a joined zoo many."""
PARTS = (".mask", ".values", ".starts")
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
}
"""What tensors of a shard may be: all that numpy has numbers for and networks use."""

Values = Tensor | NDArray[Any]


def write_shard(path: Path, tensors: Mapping[str, Values], metadata: Mapping[str, Any]) -> int:
    """Write the models of a stack, whole or not at all; gives back the bytes of the file.

    Args:
        path: ``Folder(...).shard(stack, epoch)``.
        tensors: parameter or buffer name -> (n, *shape), 1 <= n <= ``MOST_MODELS``.
        metadata: ``stack`` (name), ``epoch``, ``first`` (id of the model in row 0) and ``model``
            (what :func:`thrifty.resolve` builds it from); ``shape`` of an input and ``classes``
            where the mark of the zoo does not say them.  ``count`` is added.

    Raises:
        UserError: the tensors are not of one number of models, or of a dtype of :data:`DTYPES`.
    """
    arrays = {name: _array(name, x) for name, x in tensors.items()}
    return _write(path, arrays, _count(arrays, path), metadata)


def write_sparse_shard(
    path: Path,
    tensors: Mapping[str, Values],
    masks: Mapping[str, Values],
    metadata: Mapping[str, Any],
) -> int:
    """As :func:`write_shard`, with only the kept values of the tensors that have a mask.

    Args:
        masks: parameter name -> bool (n, *shape), True where a weight is kept; the others are
            read back as 0, whatever they are here.
    """
    arrays = {name: _array(name, x) for name, x in tensors.items()}
    count = _count(arrays, path)
    shapes: dict[str, list[int]] = {}
    for name, given in masks.items():
        mask = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
        x = arrays.pop(name, None)
        if x is None or mask.shape != x.shape or mask.dtype != np.bool_:
            held = "no such tensor" if x is None else f"{x.shape}"
            raise UserError(
                f"{path}: the mask of {name} is {mask.dtype} {mask.shape} and the tensor {held}; "
                f"a mask is bool and of the shape of its tensor"
            )
        taken = [name + part for part in PARTS if name + part in tensors]
        if taken:
            raise UserError(f"{path}: {taken[0]} is a tensor, and so is called a part of {name}")
        shapes[name] = list(x.shape[1:])
        arrays.update(_sparse(name, x.reshape(count, -1), mask.reshape(count, -1)))
    return _write(path, arrays, count, dict(metadata) | {"sparse": shapes})


def _sparse(name: str, x: NDArray[Any], mask: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    starts = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.int64)
    parts = [np.packbits(mask, axis=1, bitorder="little"), x[mask], starts]
    return {name + PARTS[i]: parts[i] for i in range(len(PARTS))}


def _array(name: str, x: Values) -> NDArray[Any]:
    if isinstance(x, Tensor):
        if x.dtype == torch.bfloat16:
            raise UserError(f"{name} is bfloat16, which shards do not hold; give it as .float()")
        x = x.detach().cpu().numpy()
    array = np.ascontiguousarray(x)
    if array.ndim != np.ndim(x) or array.dtype.name not in DTYPES.values():
        raise UserError(
            f"{name} is {array.dtype} {np.shape(x)}; a tensor of a shard is (models, ...) and of "
            f"{', '.join(DTYPES.values())}"
        )
    return array


def _count(arrays: Mapping[str, NDArray[Any]], path: Path) -> int:
    counts = {len(x) for x in arrays.values()}
    if len(counts) != 1:
        raise UserError(
            f"{path}: the tensors have {sorted(counts) or 'no'} models; all have as many, and "
            f"there is one tensor at least"
        )
    (count,) = counts
    if not 1 <= count <= MOST_MODELS:
        raise UserError(f"{path}: {count:,} models; a shard has 1 to {MOST_MODELS:,}")
    return count


def _write(
    path: Path, arrays: Mapping[str, NDArray[Any]], count: int, metadata: Mapping[str, Any]
) -> int:
    missing = [k for k in ("stack", "epoch", "first", "model") if k not in metadata]
    if missing:
        raise UserError(f"{path}: the metadata has no {', '.join(missing)}")
    for name in arrays:
        if name == "__metadata__" or not name.isprintable():
            raise UserError(f"{path}: a tensor is called {name!r}, which no tensor may be")
    said = json.dumps(dict(metadata) | {"count": count}, sort_keys=True)
    with written(path) as temporary:
        save_file(dict(arrays), temporary, metadata={KEY: said})
    return path.stat().st_size

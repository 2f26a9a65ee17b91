"""Tensors from files that nobody vouches for: nothing in a file is run, every lie is an error.

Pickles (``.pt``, ``.pth``, ``.th``, ``.bin``) are read as :mod:`thrifty.sources.unpickling` tells.
``.safetensors`` holds no code by design; its header is checked by the safetensors library.
``.safetensors.zst`` is the same, compressed in one zstd frame, whose declared size is checked
before any memory is taken.  Sharded networks, ``.safetensors.xz``, ``.npz`` and ``.thrifty`` are
read by their readers in :mod:`thrifty.sources`.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import zstandard
from torch import Tensor

from thrifty.errors import UserError
from thrifty.sources.mapped import open_file
from thrifty.sources.opening import located, reader_of
from thrifty.sources.stored import Stored
from thrifty.sources.unpacking import MOST_BYTES, MOST_TIMES, too_large
from thrifty.sources.unpickling import PICKLES, tensors_of, unpickled

SAFETENSORS, COMPRESSED = ".safetensors", ".safetensors.zst"
BY_READERS = (".safetensors.index.json", ".bin.index.json", ".safetensors.xz", ".npz", ".thrifty")
SUFFIXES = (SAFETENSORS, COMPRESSED, *PICKLES, *BY_READERS)

FLOATS = {
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}
"""What numpy has no types for, and readers give as unsigned integers."""

__all__ = ["COMPRESSED", "PICKLES", "SAFETENSORS", "SUFFIXES", "located", "read_weights"]


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a weight file by name, on the CPU, and the metadata of its header.

    Two names of one tensor, which our files hold once, are both in the result.  A network that
    was saved with torch.nn.utils.prune in place (``weight_orig`` and ``weight_mask``) gives
    ``weight``, their product.

    Raises:
        UserError: the file is missing, empty, cut short, damaged, of a kind that is unknown or
            another framework's, or would run code.  The message names the file and what is wrong
            with it.
    """
    path = located(path)
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise UserError(_no_kind(path))
    open_file(path).close()
    metadata: dict[str, str] = {}
    if name.endswith(PICKLES):
        tensors = _ordinary(tensors_of(unpickled(path), path), path)
    elif name.endswith(BY_READERS):
        tensors, metadata = _by_reader(path)
        _add_tied(tensors, metadata, path)
    else:
        content = path.read_bytes()
        if name.endswith(COMPRESSED):
            content = decompressed(content, path)
        tensors, metadata = _safetensors(content, path)
        _add_tied(tensors, metadata, path)
    return _unpruned(tensors, path), metadata


def decompressed(content: bytes, path: Path) -> bytes:
    """The content of one zstd frame.

    Raises:
        UserError: it is no such frame, damaged, or declares a size that no weights explain.
    """
    try:
        size = zstandard.get_frame_parameters(content).content_size
    except zstandard.ZstdError as error:
        raise UserError(f"{path} is no zstd file, or is cut short: {error}") from None
    if size in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
        raise UserError(
            f"{path} does not say how large its content is; compress it again with the size in "
            f"the frame, as the zstd command does when it reads a file"
        )
    if too_large(size, len(content)):
        raise UserError(
            f"{path} has {len(content):,} bytes and declares {size:,} bytes of content; more than "
            f"{MOST_TIMES} times the file (or {MOST_BYTES:,} bytes) is refused, for such files are "
            f"made to fill the memory; if you trust it, run zstd -d and give the result"
        )
    try:
        return bytes(zstandard.ZstdDecompressor().decompress(content, allow_extra_data=False))
    except (zstandard.ZstdError, MemoryError) as error:
        raise UserError(f"{path} is damaged or cut short: {error}; copy it again") from None


def header_of(metadata: Mapping[str, str], path: Path) -> dict[str, Any] | None:
    """What a file of ours says about itself, None if it is another's."""
    if "thrifty" not in metadata:
        return None
    try:
        header = json.loads(metadata["thrifty"])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: the entry 'thrifty' of the header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise UserError(f"{path}: the entry 'thrifty' of the header is no JSON object")
    if header.get("format") not in (1, 2):  # 2: channels were removed
        raise UserError(
            f"{path} is of format {header.get('format')!r}, and this thrifty reads formats 1 and "
            f"2; upgrade thrifty"
        )
    return header


def _no_kind(path: Path) -> str:
    known = ", ".join(SUFFIXES)
    if reader_of(path) is not None:
        return (
            f"{path} is of no known kind of weight file for a network: its names and layouts are "
            f"another framework's.  `thrifty look` reads it; to fill a network, convert it to one "
            f"of {known}"
        )
    return f"{path} is of no known kind of weight file; it ends in one of {known}"


def _by_reader(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    reader = reader_of(path)
    if reader is None:
        raise UserError(f"{path} is of no known kind of weight file")
    with reader.open(str(path)) as source:
        return {x.name: _tensor(x) for x in source.tensors}, dict(source.claims)


def _tensor(x: Stored) -> Tensor:
    whole = torch.from_numpy(x.whole().copy())
    return whole.view(FLOATS[x.dtype]) if x.dtype in FLOATS else whole


def _safetensors(content: bytes, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        tensors = safetensors.torch.load(content)
        (length,) = struct.unpack("<Q", content[:8])
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except Exception as error:  # the library raises what it meets: KeyError, RuntimeError, ...
        raise UserError(
            f"{path} is no whole safetensors file: {str(error) or type(error).__name__}; "
            f"copy it again"
        ) from None
    return tensors, metadata


def _add_tied(tensors: dict[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    header = header_of(metadata, path) or {}
    tied = header.get("tied", {})
    if not isinstance(tied, dict):
        raise UserError(f"{path}: 'tied' in the header is no object of names")
    for name, kept in tied.items():
        if not isinstance(kept, str) or kept not in tensors or name in tensors:
            raise UserError(f"{path}: the header ties {name!r} to {kept!r}, which does not hold")
        tensors[name] = tensors[kept]


def _ordinary(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    for name, x in tensors.items():
        if x.is_quantized:
            raise UserError(
                f"{path}: {name} is no ordinary tensor ({x.layout}, {x.device}, {x.dtype}); save "
                f"it dense"
            )
    return tensors


def _unpruned(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    result = {}
    for name, x in tensors.items():
        base = name[: -len("_orig")] if name.endswith("_orig") else None
        mask = tensors.get(f"{base}_mask")
        if name.endswith("_mask") and f"{name[: -len('_mask')]}_orig" in tensors:
            continue
        if base is None or mask is None:
            result[name] = x
            continue
        if mask.shape != x.shape:
            raise UserError(
                f"{path}: {name} is {tuple(x.shape)} and {base}_mask {tuple(mask.shape)}; they "
                f"must be of one shape"
            )
        result[base] = torch.where(mask != 0, x, torch.zeros((), dtype=x.dtype))
    return result

"""Tensors from files that nobody vouches for: nothing in a file is run, every lie is an error.

Pickles (``.pt``, ``.pth``, ``.th``, ``.bin``) are read by torch's restricted unpickler, which
knows tensors and plain containers and calls nothing else.  ``.safetensors`` holds no code by
design; its header is checked by the safetensors library.  ``.safetensors.zst`` is the same,
compressed in one zstd frame, whose declared size is checked before any memory is taken.
"""

import json
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import zstandard
from torch import Tensor

from thrifty.errors import UserError

PICKLES = (".pt", ".pth", ".th", ".bin")
SAFETENSORS, COMPRESSED = ".safetensors", ".safetensors.zst"
SUFFIXES = (SAFETENSORS, COMPRESSED, *PICKLES)

WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "weights")
"""Keys under which training scripts put the tensors among other things."""

MOST_BYTES = 64 << 30
FREE_BYTES = 256 << 20
MOST_TIMES = 1000
"""A compressed file may declare up to MOST_BYTES, and above FREE_BYTES no more than MOST_TIMES
its own size.  Weights of which one in a thousand is left compress about 500 times; a file made
to fill the memory of whoever opens it compresses tens of thousands of times."""


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a weight file by name, on the CPU, and the metadata of its header.

    Two names of one tensor, which our files hold once, are both in the result.  A network that
    was saved with torch.nn.utils.prune in place (``weight_orig`` and ``weight_mask``) gives
    ``weight``, their product.

    Raises:
        UserError: the file is missing, empty, cut short, damaged, of an unknown kind, or would
            run code.  The message names the file and what is wrong with it.
    """
    path = located(path)
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise UserError(
            f"{path} is of no known kind of weight file; it ends in one of {', '.join(SUFFIXES)}"
        )
    _check_readable(path)
    metadata: dict[str, str] = {}
    if name.endswith(PICKLES):
        tensors = _tensors_of(_unpickled(path), path)
    else:
        content = path.read_bytes()
        if name.endswith(COMPRESSED):
            content = decompressed(content, path)
        tensors, metadata = _safetensors(content, path)
        _add_tied(tensors, metadata, path)
    return _unpruned(tensors, path), metadata


def located(path: str | Path) -> Path:
    """``path`` with ``~`` replaced by the home folder.

    Raises:
        UserError: it is ``~someone`` and there is no such person.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{str(path)!r} is no path: {error}") from None


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
    if size > MOST_BYTES or size > max(FREE_BYTES, MOST_TIMES * len(content)):
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
    if header.get("format") != 1:
        raise UserError(
            f"{path} is of format {header.get('format')!r}, and this thrifty reads format 1; "
            f"upgrade thrifty"
        )
    return header


def _check_readable(path: Path) -> None:
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no ordinary file"
            raise UserError(f"{path} is {kind}; give a weight file")
        with path.open("rb") as file:
            if not file.read(1):
                raise UserError(f"{path} is empty; copy it again")
    except FileNotFoundError:
        raise UserError(f"there is no file {str(path)!r} (seen from {Path.cwd()})") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None


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


def _unpickled(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the protocol of pickles we then refuse
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, str(error))) from None
    except Exception as error:  # torch passes on whatever a damaged file makes it run into
        reason = f"{type(error).__name__}: {error}".strip().split("\n")[0][:200]
        raise UserError(
            f"{path} cannot be read as a PyTorch file, it is damaged or cut short ({reason}); "
            f"copy it again"
        ) from None


def _refusal(path: Path, message: str) -> str:
    found = re.search(r"(?:GLOBAL|class) ([\w.]+)", message)
    if not found:
        return (
            f"{path} is refused: it is damaged, or a pickle that torch.save did not write, and "
            f"reading it any other way would execute code that the file chooses; copy it again, or "
            f"write it with torch.save(model.state_dict(), FILE)"
        )
    what = found.group(1)
    take = ".state_dict()" if what.startswith("torch.nn") else "['state_dict']"
    return (
        f"{path} is refused: it asks for {what!r}, and loading it would execute code that the "
        f"file chooses.  If you trust it, keep its tensors only, where it may run: "
        f"torch.save(torch.load({path.name!r}, weights_only=False){take}, 'weights.pt')"
    )


def _tensors_of(loaded: object, path: Path, depth: int = 0) -> dict[str, Tensor]:
    if not isinstance(loaded, dict):
        raise UserError(
            f"{path} holds one {type(loaded).__name__} and no tensors by name; save "
            f"model.state_dict()"
        )
    tensors = {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        for key in WRAPPERS:
            if depth < 3 and isinstance(loaded.get(key), dict) and loaded[key]:
                return _tensors_of(loaded[key], path, depth + 1)
        keys = ", ".join(repr(k) for k in list(loaded)[:8]) or "nothing"
        raise UserError(
            f"{path} has no tensors by name, nor under {', '.join(WRAPPERS)}; it has {keys}"
        )
    for name, x in tensors.items():
        if x.layout is not torch.strided or x.is_meta or x.is_quantized:
            kind = f"{x.layout}, {x.device}, {x.dtype}"
            raise UserError(f"{path}: {name} is no ordinary tensor ({kind}); save it dense")
        if x.numel() * x.element_size() > MOST_TIMES * max(x.untyped_storage().nbytes(), 1 << 10):
            raise UserError(
                f"{path}: {name} claims {x.numel():,} numbers and the file holds "
                f"{x.untyped_storage().nbytes():,} bytes of it"
            )
    return {name: x.detach() for name, x in tensors.items()}


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

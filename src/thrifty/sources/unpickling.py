"""Files of torch.save, read by torch's restricted unpickler and checked before it sees them.

That unpickler knows tensors and plain containers and calls nothing else, so no code of a file is
run.  It does believe sizes, and may be asked for a buffer of any size, for a text that doubles
with every byte of the file, or for the hash of tuples nested so deeply that Python dies.  So the
opcodes are looked through first, without executing them, and of zip files the directory.
"""

import io
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from thrifty.errors import UserError
from thrifty.sources.mapped import open_file
from thrifty.sources.unpacking import MOST_TIMES

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = (".pt", ".pth", ".th", ".bin")

WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "weights")
"""Keys under which training scripts put the tensors among other things."""

MOST_NESTED = 200
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_LEGACY_PICKLES = 5
"""A file from before the zip format is so many pickles, and then the numbers."""
_ENCODE = "_codecs.encode"
_GROWING = ("hex", "base64", "uu", "quopri", "quotedprintable", "zlib", "zip", "bz2", "bzip2")
"""Codecs that take bytes, and so take what they gave: each use may double it."""
_NEVER = ("builtins.bytearray", "__builtin__.bytearray")
_NESTS = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID")


def unpickled(path: Path, mapped: bool = False) -> object:
    """What a file of torch.save holds, on the CPU.

    Args:
        path: the file.
        mapped: leave the numbers of a zip file in the file until they are used.

    Raises:
        UserError: it is damaged, would run code, or asks for more memory than it has bytes.
    """
    import torch

    zipped = _checked(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the protocol of pickles we then refuse
            return torch.load(
                os.fspath(path), map_location="cpu", weights_only=True, mmap=mapped and zipped
            )
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, str(error))) from None
    except Exception as error:  # torch passes on whatever a damaged file makes it run into
        raise _damaged(path, error) from None


def tensors_of(loaded: object, path: Path) -> "dict[str, Tensor]":
    """The tensors by name in what a file holds, also under the usual keys.

    Raises:
        UserError: there are none, or one is sparse, without memory, or claims more than is there.
    """
    import torch

    found = _named(loaded, path)
    storages: dict[int, int] = {}
    for name, x in found.items():
        if x.layout is not torch.strided or x.is_meta:
            raise UserError(
                f"{path}: {name} is no ordinary tensor ({x.layout}, {x.device}, {x.dtype}); save "
                f"it dense"
            )
        held = x.untyped_storage().nbytes()
        storages[x.untyped_storage().data_ptr()] = held
        if x.numel() * x.element_size() > MOST_TIMES * max(held, 1 << 10):
            raise UserError(
                f"{path}: {name} claims {x.numel():,} numbers and the file holds {held:,} bytes of "
                f"it"
            )
    claimed, size = sum(storages.values()), path.stat().st_size
    if claimed > size:
        raise UserError(
            f"{path} has {size:,} bytes and its tensors {claimed:,}; it is damaged, or made to "
            f"fill the memory"
        )
    return {name: x.detach() for name, x in found.items()}


def _named(loaded: object, path: Path, depth: int = 0) -> "dict[str, Tensor]":
    from torch import Tensor

    if not isinstance(loaded, dict):
        raise UserError(
            f"{path} holds one {type(loaded).__name__} and no tensors by name; save "
            f"model.state_dict()"
        )
    tensors = {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if tensors:
        return tensors
    for key in WRAPPERS:
        if depth < 3 and isinstance(loaded.get(key), dict) and loaded[key]:
            return _named(loaded[key], path, depth + 1)
    keys = ", ".join(ascii(k)[:60] for k in list(loaded)[:8]) or "nothing"
    raise UserError(
        f"{path} has no tensors by name, nor under {', '.join(WRAPPERS)}; it has {keys}"
    )


def _checked(path: Path) -> bool:
    """Whether the file is a zip.  Raises UserError if torch should not see it."""
    with open_file(path) as file:
        start = file.read(4)
        file.seek(0)
        try:
            if start == _ZIP:
                _check_zip(file, path)
            elif start[:1] == _PICKLE:
                for _ in range(_LEGACY_PICKLES):
                    _check_opcodes(file, path)
                    if not file.peek(1):  # a pickle of another program, which torch refuses
                        break
            else:
                raise UserError(
                    f"{path} cannot be read as a PyTorch file, it is damaged or another's (it "
                    f"begins with {start!r}); copy it again"
                )
        except UserError:
            raise
        except Exception as error:  # zipfile and pickletools pass on what damage leads to
            raise _damaged(path, error) from None
    return start == _ZIP


def _check_zip(file: BinaryIO, path: Path) -> None:
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if any(name.endswith("/constants.pkl") for name in names):
            raise UserError(
                f"{path} is a TorchScript archive, which is a program; keep its tensors only, "
                f"where it may run: torch.save(torch.jit.load({path.name!r}).state_dict(), "
                f"'weights.pt')"
            )
        if len(set(names)) != len(names):
            raise UserError(f"{path} has two entries of one name; torch.save writes none such")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise UserError(
                    f"{path} has {entry.filename!r} compressed, which torch.save never does; such "
                    f"files are refused, for a small one can fill the memory"
                )
        if sum(entry.file_size for entry in entries) > size:
            raise UserError(f"{path} has {size:,} bytes and entries of more; it is damaged")
        for name in names:
            if name.endswith("data.pkl"):
                _check_opcodes(io.BytesIO(archive.read(name)), path)


def data_records(path: Path) -> set[int]:
    """Sizes in bytes of the entries of a zip file of torch.save that hold numbers."""
    with zipfile.ZipFile(path) as archive:
        return {entry.file_size for entry in archive.infolist()}


def _check_opcodes(file: BinaryIO, path: Path) -> None:
    """Look through one pickle, without executing it; ``file`` is left behind its end.

    Depths are followed through the stack and the memo, so that nesting is seen before it is built.
    """
    stack: list[int | None] = []
    memo: dict[int, int] = {}
    encodes, grows = False, False
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name == "MARK":
            stack.append(None)
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(str(argument))])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(str(argument))] = stack[-1] or 0
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1] or 0
        else:
            deepest = max(_popped(stack, opcode), default=0) + (name in _NESTS)
            if deepest > MOST_NESTED:
                raise UserError(f"{path} is nested more than {MOST_NESTED} deep; it is refused")
            stack += [deepest] * len(opcode.stack_after)
        if name == "GLOBAL":
            asked = str(argument).replace(" ", ".", 1)
            encodes |= asked == _ENCODE
            if asked in _NEVER:
                raise UserError(
                    f"{path} is refused: it asks for {asked!r}, a buffer of any size; it needs "
                    f"none for tensors"
                )
        elif isinstance(argument, str):
            plain = re.sub("[^a-z0-9]", "", argument[:40].lower()).removesuffix("codec")
            grows |= plain in _GROWING
    if encodes and grows:
        raise UserError(f"{path} is refused: it asks for texts that grow without end")


def _popped(stack: list[int | None], opcode: pickletools.OpcodeInfo) -> Iterator[int]:
    """In place: the depths of what an opcode takes from the stack."""
    before = list(opcode.stack_before)
    if pickletools.markobject in before:
        while (depth := stack.pop()) is not None:
            yield depth
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        depth = stack.pop()
        if depth is None:
            raise ValueError(f"{opcode.name} takes a mark for an object")
        yield depth


def _damaged(path: Path, error: Exception) -> UserError:
    reason = f"{type(error).__name__}: {error}".strip().split("\n")[0][:200]
    return UserError(
        f"{path} cannot be read as a PyTorch file, it is damaged or cut short ({reason}); "
        f"copy it again"
    )


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

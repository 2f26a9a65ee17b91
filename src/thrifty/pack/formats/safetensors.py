"""Plain dense tensors that every program of the field reads."""

import json
import struct
from pathlib import Path

import safetensors.torch

from thrifty.nets.stored import load_model
from thrifty.pack.contents import Contents
from thrifty.pack.saving import FORMATS, Format


def encoded(held: Contents) -> bytes:
    """A safetensors file; equal contents give equal bytes.

    The library writes metadata in an order that changes from call to call, so the header is
    written again with sorted metadata.  Offsets count from its end and stay as they are.
    """
    content = safetensors.torch.save(held.tensors)
    (length,) = struct.unpack("<Q", content[:8])
    entries = json.loads(content[8 : 8 + length])
    header = {"__metadata__": dict(sorted(held.metadata.items())), **entries}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, memoryview(content)[8 + length :]])


def _write(held: Contents, path: Path) -> None:
    path.write_bytes(encoded(held))


FORMATS.add(
    "safetensors",
    Format(
        about="Dense tensors as they are; read by every program of the field",
        suffix=".safetensors",
        write=_write,
        read=load_model,
    ),
)

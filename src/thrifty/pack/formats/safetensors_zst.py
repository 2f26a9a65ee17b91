"""A safetensors file compressed with zstd: what a zip of the plain file would take, no less.

It is also the yardstick for sparse formats, for zeros compress well without any.  The command
``zstd -d`` turns it into the plain file.
"""

from pathlib import Path

import zstandard

from thrifty.nets.stored import load_model
from thrifty.pack.contents import Contents
from thrifty.pack.formats.safetensors import encoded
from thrifty.pack.saving import FORMATS, Format

LEVEL = 19
QUICK = 9
QUICK_ABOVE = 32 << 20
"""Bytes above which ``QUICK`` is used: level 19 packs 3 MB a second."""


def _write(held: Contents, path: Path) -> None:
    plain = encoded(held)
    compressor = zstandard.ZstdCompressor(
        level=LEVEL if len(plain) <= QUICK_ABOVE else QUICK,
        write_checksum=True,
        write_content_size=True,
    )
    path.write_bytes(compressor.compress(plain))


FORMATS.add(
    "safetensors_zst",
    Format(
        about=f"Dense tensors compressed with zstd, level {LEVEL} ({QUICK} above 32 MiB)",
        suffix=".safetensors.zst",
        write=_write,
        read=load_model,
    ),
)

"""Our own ``.thrifty`` files; :mod:`thrifty.container` says how they are read and checked.

Each tensor is unpacked when it is asked for, as one piece.  Constants of a lowered graph, whose
names begin with ``program:``, are no weights of the network and are left out.
"""

from collections.abc import Iterator
from pathlib import Path

from thrifty.container import Entry, Reader
from thrifty.sources import SOURCES
from thrifty.sources import Reader as SourceReader
from thrifty.sources.formats.safetensors import tied_notes
from thrifty.sources.stored import Bits, Source, Stored

CONSTANT = "program:"
"""What the names of constants of a program begin with."""


def open_thrifty(text: str) -> Source:
    """The tensors of the ``.thrifty`` file at the path ``text``.

    Raises:
        UserError: there is no such file, or it breaks a rule of the format.
    """
    path = Path(text)
    reader = Reader(path)
    try:
        notes = tied_notes(reader.metadata, text)
    except BaseException:
        reader.close()
        raise
    return Source(
        label=path.name.removesuffix(".thrifty"),
        kind="thrifty",
        tensors=tuple(
            _stored(reader, entry)
            for name, entry in reader.tensors.items()
            if not name.startswith(CONSTANT)
        ),
        nbytes=reader.nbytes,
        notes=notes,
        claims=reader.metadata,
        on_close=reader.close,
    )


def _stored(reader: Reader, entry: Entry) -> Stored:
    def read() -> Iterator[Bits]:
        yield reader.read(entry.name).reshape(-1)

    return Stored(entry.name, entry.shape, entry.dtype, read)


SOURCES.add(
    "thrifty",
    SourceReader(
        about="Our own files: zeros left out, each tensor compressed on its own; no code",
        open=open_thrifty,
        suffixes=(".thrifty",),
    ),
)

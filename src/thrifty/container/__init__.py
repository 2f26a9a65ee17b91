"""The ``.thrifty`` file: tensors with zeros left out, each read on its own, without torch.

docs/thrifty-format.md is the specification.  :func:`write` makes a file, :class:`Reader` maps one
and gives its tensors, dense or as positions and values.  Every size, offset, count and checksum
of a file is checked before memory is taken for what it describes.
"""

from thrifty.container.header import Entry, Section
from thrifty.container.reading import Reader
from thrifty.container.writing import VALUES, Report, write

__all__ = ["VALUES", "Entry", "Reader", "Report", "Section", "write"]

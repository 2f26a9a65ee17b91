"""Weights from anywhere, as tensors that are read piece by piece and never run code.

A reader is one file in ``thrifty/sources/formats/`` that calls ``SOURCES.add(name, Reader(...))``.
A reader with ``suffixes`` opens files that end so; one with a ``prefix`` opens what is written
behind it (``hf:ORG/REPO``).  :func:`opened` turns what a person writes into sources.
"""

from collections.abc import Callable
from dataclasses import dataclass

from thrifty.registry import Registry
from thrifty.sources.stored import BITS, PIECE, Norm, Quantised, Source, Stored


@dataclass(frozen=True)
class Reader:
    """How one kind of source is opened.

    Args:
        about: one line for listings.
        open: gives the source for a path (readers with suffixes) or for the text behind the
            prefix.  Raises UserError if it is no such thing, damaged, or would run code.
        suffixes: endings of file names, lower case, such as ``(".npz",)``; the longest wins.
        prefix: such as ``"hf"``, written ``hf:...``; empty for readers of files.
    """

    about: str
    open: Callable[[str], Source]
    suffixes: tuple[str, ...] = ()
    prefix: str = ""


SOURCES: Registry[Reader] = Registry("source", "thrifty.sources.formats", "thrifty.sources")

__all__ = ["BITS", "PIECE", "SOURCES", "Norm", "Quantised", "Reader", "Source", "Stored"]

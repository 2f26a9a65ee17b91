"""Networks in files: :func:`save` writes one, :func:`load` builds it again from the file alone.

The format goes by the suffix.  Each is one file of the folder ``formats``.
"""

from thrifty.pack.saving import FORMATS, Format, load, save

__all__ = ["FORMATS", "Format", "load", "save"]

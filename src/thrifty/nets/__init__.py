"""Networks: the built-in ones, those of torchvision and timm, your own, and weights for them.

:func:`resolve` turns what a person writes (``resnet20?width=2``, ``torchvision:resnet18``,
``package.module:factory``, a file, a folder) into a module, the same in Python and on the
command line.  Nothing that stands in a weight file is ever run.
"""

from thrifty.nets.architecture import NETS, Architecture, architecture_of
from thrifty.nets.fit import load_weights
from thrifty.nets.macs import count_macs
from thrifty.nets.models import file_of, resolve
from thrifty.nets.reading import read_weights

__all__ = [
    "NETS",
    "Architecture",
    "architecture_of",
    "count_macs",
    "file_of",
    "load_weights",
    "read_weights",
    "resolve",
]

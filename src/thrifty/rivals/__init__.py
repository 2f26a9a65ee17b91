"""Other programs that run a network on a CPU, each at its best, for ours to be measured against.

A rival is a file here that registers how it loads a network for one batch size and a number of
threads, and gives back a function from numpy to numpy.  Each is set up as someone would who
wanted it to win: constant folding, a fixed batch, buffers bound ahead, the layout that is faster.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from thrifty.registry import Registry

Array = NDArray[np.float32]
Run = Callable[[Array], Array]


@dataclass(frozen=True)
class Rival:
    """A program that runs networks, in one setting."""

    about: str
    """One line for listings."""
    load: Callable[[nn.Module, Tensor, int], Run]
    """A function of a float32 batch of the example's size, from (model, example, threads).
    What it gives back may be a buffer that the next call writes anew."""
    version: Callable[[], str]
    """Of the package; raises MissingExtra where it is not installed."""
    precision: str = "f32"
    """What it computes in: f32 or bf16."""


RIVALS: Registry[Rival] = Registry("rival", "thrifty.rivals", "thrifty.rivals")

__all__ = ["RIVALS", "Array", "Rival", "Run"]

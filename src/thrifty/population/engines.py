"""What trains a stack, an epoch at a time: each engine does the same with other means.

All see the inputs in the order that the seeds decide (:func:`thrifty.native.lanes.order`), so
that, without dropout and noise, two engines give the same models up to rounding.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from thrifty.data import Data, Split
from thrifty.native.lanes import Samples
from thrifty.population.stack import Stack

Moments = Mapping[str, Mapping[str, Tensor]]
"""Name of a moment of the optimizer, such as ``first`` -> parameter name -> (k, *shape)."""


class Learned(NamedTuple):
    """Of each model over an epoch of training, (k,)."""

    loss: NDArray[np.float64]
    accuracy: NDArray[np.float64]


class Judged(NamedTuple):
    """Of each model on a split: mean loss (k,), accuracy (k,) and classes (k, n)."""

    loss: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    classes: NDArray[np.uint8] | NDArray[np.uint16]


class Engine(Protocol):
    """Trains one stack."""

    def epoch(self, number: int) -> Learned:
        """Do the epoch of that number, counted from 0."""
        ...

    def stack(self) -> Stack:
        """The models as they are now."""
        ...

    def hold(self, masks: Stack) -> None:
        """In place: from now on the masks of that stack, of the same models, stay zero."""
        ...

    def moments(self) -> Moments:
        """What the optimizer carries from epoch to epoch."""
        ...

    def judge(self, split: Split) -> Judged:
        """The models on inputs they may not have seen."""
        ...


def small(found: NDArray[Any], classes: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Numbers of classes in the smallest type that holds them."""
    return found.astype(np.uint8) if classes <= 256 else found.astype(np.uint16)


def samples_of(data: Data, split: Split) -> Samples | None:
    """A split as bytes for the lanes; ``None`` if its inputs are no pictures of bytes."""
    import torch

    if split.inputs.dtype != torch.uint8:
        return None
    return Samples(
        np.ascontiguousarray(split.inputs.reshape(len(split), -1).numpy()),
        np.ascontiguousarray(split.labels.numpy().astype(np.int32)),
        np.array(data.mean, np.float32),
        np.array(data.std, np.float32),
    )

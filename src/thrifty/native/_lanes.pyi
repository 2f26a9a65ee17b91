"""The compiled lanes; native/lanes/bindings.cc."""

from typing import Any

from numpy.typing import NDArray

class Lanes:
    """A network and the kernels that run blocks of models that have it."""

    def __init__(self, target: str) -> None: ...
    def add(
        self,
        *,
        conv: bool,
        inputs: int,
        outputs: int,
        height: int,
        width: int,
        kernel: int,
        stride: int,
        padding: int,
        pool: int,
        pool_stride: int,
        pool_first: bool,
        act: str,
        dropout: bool,
        bias: bool,
    ) -> None:
        """Add a layer."""

    def run(self, **arguments: Any) -> None:
        """An epoch of training, or an evaluation; see Job in native/lanes/lanes.h."""

    def parameters(self) -> int:
        """Numbers of a model; ValueError if the layers do not fit each other."""

    def lanes(self) -> int:
        """Models of a block."""

    def peak(self, seconds: float) -> float:
        """Products and sums a second of one core, measured for so long."""

def order(seed: int, epoch: int, count: int) -> NDArray[Any]:
    """The order in which a model of that seed sees the samples in an epoch, int32 (count,)."""

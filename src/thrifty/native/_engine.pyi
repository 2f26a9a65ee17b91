"""The compiled engine; native/engine/engine_bindings.cc."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

class Net:
    """Operations, laid out and run; inputs and outputs are numbers of values."""

    def __init__(
        self,
        target: str,
        shapes: Sequence[tuple[int, int, int]],
        inputs: Sequence[int],
        outputs: Sequence[int],
    ) -> None: ...
    def add(
        self,
        kind: str,
        name: str,
        inputs: Sequence[int],
        output: int,
        steps: Sequence[tuple[int, float, float, int, int]],
        *,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        largest: bool,
        count_padding: bool,
        divisor: float,
        weight: NDArray[Any] | None,
        scale: NDArray[Any] | None,
        shift: NDArray[Any] | None,
        places: NDArray[Any] | None,
        rest: float,
    ) -> None:
        """Add an operation; ValueError if it does not fit."""

    def prepare(self) -> None:
        """Lay the network out for single images; ValueError if that is impossible."""

    def run(
        self,
        inputs: Sequence[NDArray[Any]],
        outputs: Sequence[NDArray[Any]],
        n: int,
        threads: int,
    ) -> None:
        """Run ``n`` images."""

    def profile(
        self, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]], n: int
    ) -> list[tuple[int, str, float]]:
        """Operation (-1: a move), how it was done and seconds of each task."""

    def set_images(self, images: int) -> None:
        """Images of a group, 1, 4 or 16; 0: measured at the first large batch."""

    def bytes(self) -> int:
        """Of the memory between operations, for one group at a time."""

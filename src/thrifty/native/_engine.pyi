"""The compiled engine; native/engine/engine_bindings.cc."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

class TooLarge(MemoryError):
    """More memory is needed than the budget has."""

class Budget:
    """Bytes that networks may take together."""

    def __init__(self, bytes: int) -> None: ...
    def take(self, bytes: int, what: str) -> None:
        """Count ``bytes`` for ``what``; TooLarge if they are not left."""

    def left(self) -> int:
        """Bytes that nothing has taken."""

class Net:
    """Operations, laid out and run; inputs and outputs are numbers of values."""

    def __init__(
        self,
        target: str,
        shapes: Sequence[tuple[int, int, int]],
        inputs: Sequence[int],
        outputs: Sequence[int],
        budget: Budget | None = None,
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
        """Add an operation; ValueError if it does not fit, TooLarge if there is no room."""

    def prepare(self) -> None:
        """Lay the network out for single images; ValueError if that is impossible, or TooLarge."""

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
        """Images of a group, a power of 2 to 16; 0: measured at the first large batch."""

    def bytes(self) -> int:
        """Of the memory between operations, for one group at a time."""

    def taken(self) -> int:
        """Of all that was taken from the budget."""

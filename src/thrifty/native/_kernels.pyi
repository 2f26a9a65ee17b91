"""The compiled kernels; native/bindings.cc.  Arrays are one-dimensional, contiguous uint8 views."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

def available() -> list[str]:
    """The targets that run on this processor, the fastest first."""

def below(
    target: str, dtype: str, data: NDArray[Any], limits: Sequence[int], threads: int
) -> list[int]:
    """How many magnitudes lie under each limit."""

def tally(
    target: str, dtype: str, data: NDArray[Any], limits: Sequence[int], sums: bool, threads: int
) -> tuple[list[int], int, int, int, int, int, float, float]:
    """Counts, zeros, negative zeros, infinities, NaN, largest magnitude, sum, sum of squares.

    Both sums are 0 if they are not asked for.
    """

def patterns(target: str, data: NDArray[Any], threads: int) -> list[int]:
    """How often each byte occurs."""

def octaves(target: str, dtype: str, data: NDArray[Any], threads: int) -> list[int]:
    """4096 counts by the upper bits of float32."""

def place(
    target: str, arrays: Sequence[NDArray[Any]], k: int, magnitude: bool, threads: int
) -> tuple[float, int, int] | None:
    """The value of rank k, how many are smaller, how many equal; None if one is NaN."""

def unpack_count(encoding: str, positions: NDArray[Any], count: int) -> int:
    """How many of ``count`` elements have a value."""

def unpack_dense(
    encoding: str,
    positions: NDArray[Any],
    planes: Sequence[NDArray[Any]],
    rotated: bool,
    out: NDArray[Any],
) -> None:
    """In place: the elements of a tensor, into the zeros of ``out``."""

def unpack_indices(encoding: str, positions: NDArray[Any], count: int, out: NDArray[Any]) -> None:
    """In place: the index of every element that has a value, int64."""

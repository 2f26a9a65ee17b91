"""Operations that only move numbers: several in a row are one.

What such an operation does is told by where each number of its result comes from, a place in the
source or -1 for a constant, so two in a row are told by the places of places.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from thrifty.engine.folding import Array
from thrifty.engine.program import Op, Shape


class Moved(NamedTuple):
    """The value ``source`` moved: ``places`` in it, and what stands where there is none."""

    source: str
    places: Array
    rest: float

    def channels(self, source: Shape, target: Shape) -> Array | None:
        """Which channels of the source they are, if they are whole channels."""
        if source[1:] != target[1:]:
            return None
        size = math.prod(source[1:])
        rows = self.places.reshape(-1, size)
        first = rows[:, 0]
        whole = (first >= 0).all() and (first % size == 0).all()
        if not whole or not np.array_equal(rows, first[:, None] + np.arange(size)):
            return None
        found: Array = first // size
        return found


class Chains:
    """Joins operations of a segment that hand on what they moved to one other that moves."""

    def __init__(self, ops: Sequence[Op], given: Collection[str]):
        self._uses = Counter(name for op in ops for name in op.inputs)
        self._given = set(given)
        self._readers = {name: op for op in ops for name in op.inputs}
        self._waiting: dict[str, Moved] = {}

    def moves(self, op: Op) -> bool:
        """Whether ``op`` only moves numbers: of its kind some do."""
        return op.kind != "max_pool" or (
            list(op.attrs["kernel"]) == [1, 1] and not any(op.attrs["padding"])
        )

    def joined(self, op: Op, values: Mapping[str, Shape]) -> Moved | None:
        """What ``op`` and those before it do; None if the one that reads it does it with them."""
        name = op.inputs[0]
        shape = values[name]
        before = self._waiting.pop(name, None)
        if before is None:
            before = Moved(name, np.arange(math.prod(shape), dtype=np.int32).reshape(shape), 0.0)
        rest = float(op.attrs["value"]) if op.kind == "pad" else before.rest
        done = Moved(before.source, MOVES[op.kind](op, before.places, values[op.output]), rest)
        done = done._replace(places=done.places.reshape(values[op.output]))
        if self._hands_on(op, done):
            self._waiting[op.output] = done
            return None
        return done

    def _hands_on(self, op: Op, done: Moved) -> bool:
        reader = self._readers.get(op.output)
        if reader is None or self._uses[op.output] != 1 or op.output in self._given:
            return False
        constants = bool((done.places < 0).any())
        fits = reader.kind != "pad" or not constants or float(reader.attrs["value"]) == done.rest
        return reader.kind in MOVES and self.moves(reader) and fits


def _sliced(op: Op, places: Array, shape: Shape) -> Array:
    return np.take(places, np.arange(op.attrs["start"], op.attrs["stop"]), op.attrs["axis"])


def _reshaped(op: Op, places: Array, shape: Shape) -> Array:
    return places.reshape(shape)


def _pixel_shuffled(op: Op, places: Array, shape: Shape) -> Array:
    factor = op.attrs["factor"]
    channels, height, width = places.shape
    split = places.reshape(channels // factor**2, factor, factor, height, width)
    moved: Array = split.transpose(0, 3, 1, 4, 2)
    return moved


def _channel_shuffled(op: Op, places: Array, shape: Shape) -> Array:
    channels = len(places)
    order = np.arange(channels).reshape(op.attrs["groups"], -1).T.reshape(-1)
    moved: Array = places[order]
    return moved


def _padded(op: Op, places: Array, shape: Shape) -> Array:
    top, left, bottom, right = op.attrs["padding"]
    return np.pad(places, ((0, 0), (top, bottom), (left, right)), constant_values=-1)


def _thinned(op: Op, places: Array, shape: Shape) -> Array:
    down, across = op.attrs["stride"]
    return places[:, ::down, ::across]


MOVES: Mapping[str, Callable[[Op, Array, Shape], Array]] = {
    "slice": _sliced,
    "reshape": _reshaped,
    "pixel_shuffle": _pixel_shuffled,
    "channel_shuffle": _channel_shuffled,
    "pad": _padded,
    "max_pool": _thinned,
}
"""Kinds that move numbers, a window of one pixel among them; where each number comes from."""

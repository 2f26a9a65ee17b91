"""Convolutions that multiply nothing: weights that are one 1 a row copy channels.

Programs say so where channels are chosen or written by constant indices.  They become moves, and
take the concatenation along that they read, if nobody else reads it: one copy instead of two.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from thrifty.engine.folding import Array, Tensors
from thrifty.engine.program import Op, Shape

_PLAIN = {"stride": [1, 1], "padding": [0, 0, 0, 0], "dilation": [1, 1], "groups": 1}


class Choices:
    """Which operations of a segment only choose channels, and from where they take them."""

    def __init__(self, ops: Sequence[Op], tensors: Tensors, given: Collection[str]):
        uses = Counter(name for op in ops for name in op.inputs)
        joins = {op.output: op for op in ops if op.kind == "concat"}
        self._rows: dict[str, Array] = {}
        self._joined: dict[str, Op] = {}
        for op in ops:
            rows = chosen(op, tensors)
            if rows is not None:
                self._rows[op.output] = rows
                name = op.inputs[0]
                if name in joins and uses[name] == 1 and name not in given:
                    self._joined[name] = joins[name]

    def waits(self, op: Op) -> bool:
        """Whether ``op`` is done by the operation that reads it."""
        return op.output in self._joined

    def chosen(self, op: Op, values: Mapping[str, Shape]) -> tuple[list[str], Array] | None:
        """Values and, for each channel of the result, (which value, which channel of it)."""
        rows = self._rows.get(op.output)
        if rows is None:
            return None
        names, pairs = sources(self._joined.get(op.inputs[0]), op.inputs[0], values)
        return names, pairs[rows]


def sources(join: Op | None, name: str, values: Mapping[str, Shape]) -> tuple[list[str], Array]:
    """The values that a value is a concatenation of, and where each channel of it lies.

    Args:
        join: the concatenation that gives it; ``None``, it is taken as it is.

    Returns:
        Their names, each once, and int32 (channels, 2): which of them, which channel of it.
    """
    inputs = join.inputs if join is not None else (name,)
    names = list(dict.fromkeys(inputs))
    number = {each: i for i, each in enumerate(names)}
    sizes = [values[each][0] for each in inputs]
    pairs = np.empty((sum(sizes), 2), np.int32)
    pairs[:, 0] = np.repeat(np.array([number[each] for each in inputs]), sizes)
    pairs[:, 1] = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
    return names, pairs


def chosen(op: Op, tensors: Tensors) -> Array | None:
    """The channels of its input that ``op`` gives, in order, if that is all it does."""
    if op.kind not in ("conv", "linear") or op.then or set(op.tensors) != {"weight"}:
        return None
    if op.kind == "conv" and any(_listed(op.attrs[k]) != _listed(v) for k, v in _PLAIN.items()):
        return None
    weight = np.asarray(tensors[op.tensors["weight"]])
    if weight.size != weight.shape[0] * weight.shape[1]:
        return None
    weight = weight.reshape(weight.shape[:2])
    if np.count_nonzero(weight) != len(weight):
        return None
    rows: Array = weight.argmax(1)
    return rows if bool((weight[np.arange(len(weight)), rows] == 1).all()) else None


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value

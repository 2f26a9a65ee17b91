"""Drafts of operations with who writes and who reads each value, for rules that merge them."""

from collections import Counter
from collections.abc import Sequence

from thrifty.engine.program import Shape
from thrifty.lowering.building import Builder, Draft

STEPPING = ("conv", "linear", "affine", "map", "add", "mul", "sub")
"""Kinds that take an epilogue."""


class Graph:
    """Operations in an order of execution, changed in place.

    Args:
        builder: what was built; its operations and shapes are taken over.
        outputs: values that must stay.
    """

    def __init__(self, builder: Builder, outputs: Sequence[str]):
        self.ops = builder.ops
        self.shapes: dict[str, Shape] = builder.shapes
        self.outputs = list(outputs)
        self._index()

    def _index(self) -> None:
        self.writer = {op.output: op for op in self.ops}
        self.place = {id(op): i for i, op in enumerate(self.ops)}
        self.uses = Counter(self.outputs)
        self.readers: dict[str, list[Draft]] = {}
        for op in self.ops:
            self.uses.update(op.inputs)
            for name in dict.fromkeys(op.inputs):
                self.readers.setdefault(name, []).append(op)

    def only(self, name: str, *kinds: str) -> Draft | None:
        """Who writes a value that is read once, if of one of these kinds."""
        op = self.writer.get(name)
        fits = op is not None and self.uses[name] == 1 and (not kinds or op.kind in kinds)
        return op if fits else None

    def replace(self, gone: Sequence[Draft], at: Draft, by: Draft | None) -> None:
        """Take operations out and put one in where ``at`` was (which may be among them)."""
        out = {id(op) for op in gone}
        ops = []
        for op in self.ops:
            if op is at and by is not None:
                ops.append(by)
            if id(op) not in out and op is not by:
                ops.append(op)
        self.ops = ops
        self._index()

    def insert_after(self, op: Draft, new: Sequence[Draft]) -> None:
        """Put operations behind ``op``, which may have been changed."""
        place = next(i for i, other in enumerate(self.ops) if other is op) + 1
        self.ops[place:place] = new
        self._index()

    def rename(self, old: str, new: str) -> None:
        """Whoever reads ``old`` reads ``new``."""
        for op in self.readers.get(old, ()):
            op.inputs = [new if name == old else name for name in op.inputs]
        self.outputs = [new if name == old else name for name in self.outputs]
        self._index()

    def without_dead(self) -> None:
        """Leave out operations whose values nobody reads."""
        needed, kept = set(self.outputs), []
        for op in reversed(self.ops):
            if op.output in needed:
                needed.update(op.inputs)
                kept.append(op)
        self.ops = kept[::-1]
        self._index()

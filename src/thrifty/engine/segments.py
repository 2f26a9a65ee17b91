"""A program cut into stretches that the compiled engine runs, and operations that it does not."""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from thrifty.engine.building import Builder, Net, image, native
from thrifty.engine.folding import Array, Tensors
from thrifty.engine.program import Op, Program
from thrifty.errors import UserError
from thrifty.native import targets

_engine: ModuleType | None
try:
    _engine = importlib.import_module("thrifty.native._engine")
except ImportError:  # installed where there was no compiler
    _engine = None


@dataclass
class Segment:
    """Operations that follow each other, and which values they take and give to others.

    ``net`` runs them, or None: they are run one at a time by someone else, for ``reason``.
    """

    ops: list[Op]
    inputs: list[str]
    outputs: list[str]
    net: Net = None
    numbers: list[int] = field(default_factory=list)
    """Of each operation of ``net``, its place in ``ops``."""
    reason: str = ""
    density: dict[str, float] = field(default_factory=dict)
    """By output: the share of an operation's weights that are not zero."""
    last: list[str] = field(default_factory=list)
    """Values that nothing after this reads."""


def segments(program: Program, tensors: Tensors, memory: int) -> list[Segment]:
    """The stretches of ``program``, in order, compiled where they can be.

    Args:
        program: what is run.
        tensors: its weights.
        memory: bytes that all of them may take together, without what is between them.

    Raises:
        UserError: more memory is needed, or a tensor cannot be read.
    """
    found = _stretches(program)
    _connect(found, program)
    budget = _engine.Budget(memory) if _engine is not None else None
    for segment in found:
        if segment.reason:
            continue
        try:
            _compile(segment, program, tensors, budget)
        except MemoryError as error:
            raise UserError(
                f"this network is too large: {error}; give memory=, in bytes, if it is right"
            ) from None
        except UserError:
            raise
        except ValueError as error:
            segment.net, segment.reason = None, str(error)
    return found


def between(found: Sequence[Segment], program: Program) -> int:
    """Bytes of the values that segments give, for one image."""
    names = {name for segment in found for name in segment.outputs}
    return sum(4 * math.prod(program.values[name]) for name in names)


def _stretches(program: Program) -> list[Segment]:
    found: list[Segment] = []
    compiled = _engine is not None and targets.target() != "numpy"
    stretch: list[Op] = []
    for op in program.ops:
        if compiled and native(op, program.values):
            stretch.append(op)
            continue
        if stretch:
            found.append(Segment(stretch, [], []))
            stretch = []
        reason = (
            "the engine was not compiled"
            if not compiled
            else _named(op)
            if op.kind == "fallback"
            else "values that are no images"
        )
        found.append(Segment([op], [], [], reason=reason))
    if stretch:
        found.append(Segment(stretch, [], []))
    return found


def _named(op: Op) -> str:
    return str(op.attrs["target"])


def _connect(found: Sequence[Segment], program: Program) -> None:
    """Which values each takes, gives, and is the last to read."""
    last: dict[str, int] = {}
    for number, segment in enumerate(found):
        made = {op.output for op in segment.ops}
        needed = dict.fromkeys(name for op in segment.ops for name in op.inputs)
        segment.inputs = [name for name in needed if name not in made]
        last.update(dict.fromkeys(segment.inputs, number))
    kept = set(program.outputs)
    for number, segment in enumerate(found):
        names = [op.output for op in segment.ops]
        segment.outputs = [n for n in names if n in kept or last.get(n, number) > number]
        segment.last = [n for n in segment.inputs if last[n] == number and n not in kept]


def _compile(segment: Segment, program: Program, tensors: Tensors, budget: Any) -> None:
    assert _engine is not None
    names = [*segment.inputs, *(op.output for op in segment.ops)]
    index = {name: number for number, name in enumerate(names)}
    shapes = [image(program.values[name]) for name in names]
    net = _engine.Net(
        targets.target(),
        shapes,
        [index[name] for name in segment.inputs],
        [index[name] for name in segment.outputs],
        budget,
    )
    build = Builder(net, program.values, index)
    build.add(segment.ops, tensors, segment.outputs)
    net.prepare()
    segment.net, segment.numbers, segment.density = net, build.numbers, build.density


def run(
    segment: Segment, values: Mapping[str, Array], program: Program, count: int, threads: int
) -> list[Array]:
    """The outputs of a compiled segment for ``count`` images."""
    given = [np.ascontiguousarray(values[name], np.float32) for name in segment.inputs]
    made = [np.empty((count, *program.values[name]), np.float32) for name in segment.outputs]
    segment.net.run(given, made, count, threads)
    return made


def profile(
    segment: Segment, values: Mapping[str, Array], program: Program, count: int
) -> tuple[list[Array], list[tuple[int, str, float]]]:
    """The outputs, and of each task the operation (-1: none), how it was done, and seconds."""
    given = [np.ascontiguousarray(values[name], np.float32) for name in segment.inputs]
    made: list[Any] = [
        np.empty((count, *program.values[name]), np.float32) for name in segment.outputs
    ]
    times = segment.net.profile(given, made, count)
    return made, [(-1 if n < 0 else segment.numbers[n], how, s) for n, how, s in times]

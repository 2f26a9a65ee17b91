"""Running a program: in C++ where it can be, the rest by whoever the caller names."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from thrifty.engine import segments
from thrifty.engine.folding import Array, Tensors
from thrifty.engine.program import Op, Program
from thrifty.errors import UserError

Stand = Callable[[Op, Sequence[Array], Tensors, tuple[int, ...]], Array]
"""Runs one operation on arrays, the batch first; the last argument is the shape of its value."""


MOST_MEMORY = 8 << 30
"""Bytes, unless more is asked for."""


class OpTime(NamedTuple):
    """What an operation took.

    Args:
        name: of the module it comes from, or of its value.
        kind: of :data:`thrifty.engine.kinds.KINDS`, or "layout" for moves between operations.
        how: such as "sparse 4x4, 2 blocks", or "torch: aten.erf.default".
        us: microseconds, for all images.
        density: share of nonzero weights, None where there are none.
    """

    name: str
    kind: str
    how: str
    us: float
    density: float | None


class Engine:
    """A network that runs on the CPU.  It may be called from several threads at once.

    Args:
        program: what to run.
        tensors: its weights, by name; not kept.
        threads: used at most for a call.
        stand: runs operations that the engine does not know; :func:`thrifty.compile` gives torch.
        memory: bytes that the network may take, and as many again what lies between its parts
            during a call.  What it needs is counted before it is allocated, for a file may state
            any size.

    Raises:
        UserError: a tensor is missing or does not fit, more memory is needed, or there are
            operations that need ``stand``, and there is none.

    Attributes:
        program: what is run.
        threads: may be set.
        fallbacks: names of operations that ``stand`` runs, each with the reason.
    """

    def __init__(
        self,
        program: Program,
        tensors: Tensors,
        threads: int = 1,
        stand: Stand | None = None,
        memory: int = MOST_MEMORY,
    ):
        if threads < 1:
            raise UserError(f"threads is {threads}; it is 1 or more")
        program.check_tensors(_shapes(tensors))
        self.program, self.threads, self._memory = program, threads, memory
        self._segments = segments.segments(program, tensors, memory)
        self._between = segments.between(self._segments, program)
        self._check_batch(1)
        self._stand = stand
        left = [(op, s.reason) for s in self._segments if s.net is None for op in s.ops]
        self.fallbacks = {op.name or op.output: reason for op, reason in left}
        if left and stand is None:
            op, reason = left[0]
            raise UserError(
                f"{len(left)} operations of this network need torch, such as {op.kind} "
                f"{op.name or op.output!r} ({reason}); install torch and use thrifty.compile, or "
                f"install thrifty where there is a C++ compiler"
            )
        names = {name for op, _ in left for name in op.tensors.values()}
        self._tensors = {name: np.asarray(tensors[name]) for name in names}
        self._density = {
            op.output: float(np.count_nonzero(self._tensors[op.tensors["weight"]]))
            / max(1, self._tensors[op.tensors["weight"]].size)
            for op, _ in left
            if "weight" in op.tensors
        }
        for segment in self._segments:
            self._density.update(segment.density)

    def __reduce__(self) -> NoReturn:
        raise UserError(
            "an engine cannot be pickled or copied, for it is laid out for this processor; give "
            "other processes the .thrifty file, and load it there"
        )

    def __call__(self, *inputs: Any) -> Any:
        """The network's outputs.

        Args:
            inputs: float32, numpy or torch, of any batch size and layout in memory.

        Returns:
            Of the kind of the first input; a tuple where the network has several outputs.

        Raises:
            UserError: the number, shapes or dtypes are wrong.
        """
        arrays, count = self._taken(inputs)
        values = dict(zip(self.program.inputs, arrays, strict=True))
        for segment in self._segments:
            if segment.net is not None:
                made = segments.run(segment, values, self.program, count, self.threads)
            else:
                made = self._stood(segment, values, count)
            values.update(zip(segment.outputs, made, strict=True))
            for name in segment.last:
                del values[name]
        given = set(self.program.inputs)
        outputs = tuple(
            _like(values[name].copy() if name in given else values[name], inputs[0])
            for name in self.program.outputs
        )
        return outputs[0] if len(outputs) == 1 else outputs

    def profile(self, *inputs: Any, repeats: int = 5) -> list[OpTime]:
        """What each operation took, on one thread, the shortest of ``repeats`` times.

        Raises:
            UserError: the number, shapes or dtypes are wrong.
        """
        runs = [self._profiled(inputs) for _ in range(max(1, repeats))]
        return [min(each, key=lambda t: t.us) for each in zip(*runs, strict=True)]

    def _profiled(self, inputs: Sequence[Any]) -> list[OpTime]:
        arrays, count = self._taken(inputs)
        values = dict(zip(self.program.inputs, arrays, strict=True))
        found = []
        for segment in self._segments:
            if segment.net is not None:
                made, times = segments.profile(segment, values, self.program, count)
                for number, how, seconds in times:
                    op = segment.ops[number] if number >= 0 else None
                    found.append(self._time(op, how, seconds))
            else:
                start = time.perf_counter()
                made = self._stood(segment, values, count)
                how = f"torch: {segment.reason}"
                found.append(self._time(segment.ops[0], how, time.perf_counter() - start))
            values.update(zip(segment.outputs, made, strict=True))
            for name in segment.last:
                del values[name]
        return found

    def _time(self, op: Op | None, how: str, seconds: float) -> OpTime:
        if op is None:
            return OpTime("", "layout", how, seconds * 1e6, None)
        density = self._density.get(op.output)
        return OpTime(op.name or op.output, op.kind, how, seconds * 1e6, density)

    def _stood(
        self, segment: segments.Segment, values: Mapping[str, Array], count: int
    ) -> list[Array]:
        assert self._stand is not None
        own = dict(values)
        for op in segment.ops:
            shape = tuple(self.program.values[op.output])
            given = [own[name] for name in op.inputs]
            if count == 0:
                own[op.output] = np.empty((0, *shape), np.float32)
                continue
            own[op.output] = self._stand(op, given, self._tensors, shape)
        return [own[name] for name in segment.outputs]

    def _taken(self, inputs: Sequence[Any]) -> tuple[list[Array], int]:
        """The inputs as contiguous arrays, and the batch size."""
        names = self.program.inputs
        if len(inputs) != len(names):
            raise UserError(f"the network takes {len(names)} inputs; {len(inputs)} are given")
        arrays = []
        for name, given in zip(names, inputs, strict=True):
            array = _array(given, name)
            shape = tuple(self.program.values[name])
            if array.dtype != np.float32:
                raise UserError(
                    f"the input {name!r} is {array.dtype}; the engine takes float32: convert it, "
                    f"and scale pixels as in training"
                )
            if array.shape[1:] != shape or array.ndim == 0:
                raise UserError(
                    f"the input {name!r} has the shape {array.shape}; it must be (batch, "
                    f"{', '.join(map(str, shape))})"
                )
            arrays.append(np.ascontiguousarray(array))
        counts = {len(array) for array in arrays}
        if len(counts) > 1:
            raise UserError(f"the inputs have different batch sizes, {sorted(counts)}")
        count = counts.pop()
        self._check_batch(count)
        return arrays, count

    def _check_batch(self, count: int) -> None:
        if count * self._between > self._memory:
            raise UserError(
                f"the values between the parts of this network need "
                f"{count * self._between / 2**30:,.1f} GiB for {count:,} images, and "
                f"{self._memory / 2**30:,.1f} GiB are allowed; give fewer images at a time, or "
                f"memory=, in bytes"
            )


def _shapes(tensors: Tensors) -> Mapping[str, tuple[int, ...]]:
    """Shapes by name; those of a file are known without reading it."""
    known: Mapping[str, tuple[int, ...]] | None = getattr(tensors, "shapes", None)
    return {name: array.shape for name, array in tensors.items()} if known is None else known


def _array(given: Any, name: str) -> Array:
    try:
        return np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the input {name!r} is no array of float32: {str(error)[:200]}; give a numpy array "
            f"or a torch tensor"
        ) from None


def _like(array: Array, given: Any) -> Any:
    """``array`` as the kind of thing that ``given`` is."""
    if not hasattr(given, "detach"):
        return array
    import torch

    return torch.from_numpy(array)

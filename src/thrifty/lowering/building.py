"""What a program is built up in: operations that may still change, and what is known of each node.

A node of the graph becomes one of: ``Held``, a value of the program and how the network sees it;
``Known``, a tensor that does not depend on the inputs; a number, which may be a ``Batch``; or a
list of those.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from thrifty.engine.program import OWN, Shape
from thrifty.errors import UserError
from thrifty.lowering.sizes import Batch, Spot


@dataclass
class Draft:
    """An operation that may still be changed, merged or left out."""

    kind: str
    name: str
    inputs: list[str]
    output: str
    tensors: dict[str, str] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def then(self) -> list[dict[str, Any]]:
        """Its epilogue, to be appended to."""
        steps: list[dict[str, Any]] = self.attrs.setdefault("then", [])
        return steps


@dataclass(frozen=True)
class Held:
    """A value of the program, and how the network sees it."""

    name: str
    spot: Spot
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> Shape:
        """The shape of the value, without the batch."""
        return self.spot.stored

    @property
    def plain(self) -> bool:
        """Whether it is numbers with the batch first, as the program has it."""
        return self.spot.plain and self.dtype == torch.float32


@dataclass(frozen=True)
class Known:
    """A tensor that does not depend on the inputs; ``name`` is that in the state_dict."""

    tensor: Tensor
    name: str | None = None

    @property
    def number(self) -> float | None:
        """Its only element, if it has one."""
        return float(self.tensor) if self.tensor.numel() == 1 else None


@dataclass
class Call:
    """One operator of the graph with what is known of its arguments.

    Args:
        node: its name in the graph.
        module: the dotted name of the module that called it.
        target: such as ``aten.relu.default``.
        args: in order, filled up with the operator's own defaults.
        kwargs: by name, those that were given.
        given: arguments as the network gave them.
        spots: where the batch is in each result; None for a result without.
        dtypes: of each result.
        several: whether the operator gives a list of results.
    """

    node: str
    module: str
    target: str
    args: dict[str, Any]
    given: tuple[tuple[Any, ...], Mapping[str, Any]]
    spots: tuple[Spot | None, ...]
    dtypes: tuple[torch.dtype, ...]
    several: bool

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    @property
    def spot(self) -> Spot:
        """Where the batch is in the only result."""
        (spot,) = self.spots
        if spot is None:
            raise UserError(f"{self.where}: its result mixes the images of a batch")
        return spot

    @property
    def shape(self) -> Shape:
        """The shape of the only result in the program."""
        return self.spot.stored

    @property
    def where(self) -> str:
        """The module and the operator, for messages."""
        return f"module {self.module!r}, operation {self.target}"


class Builder:
    """Operations, shapes of values and tensors, as they are added."""

    def __init__(self) -> None:
        self.ops: list[Draft] = []
        self.shapes: dict[str, Shape] = {}
        self.tensors: dict[str, Tensor] = {}
        self.inputs: list[str] = []
        self.own: dict[int, list[Known]] = {}
        self._owned: dict[int, str] = {}

    def value(self, wish: str, shape: Sequence[int]) -> str:
        """A new value of this shape, called as wished or nearly so."""
        name, count = wish, 1
        while name in self.shapes:
            count += 1
            name = f"{wish}.{count}"
        self.shapes[name] = tuple(shape)
        return name

    def named(self, known: Known) -> str:
        """The name of a tensor in the file, which from now on must have it."""
        if known.name is not None:
            self.tensors[known.name] = known.tensor
            return known.name
        name = self._owned.get(id(known.tensor))
        if name is None:
            name = f"{OWN}{len(self._owned)}"
            self._owned[id(known.tensor)] = name
            self.tensors[name] = known.tensor  # kept, so that its id stays its own
        return name

    def transposed(self, known: Known) -> Known:
        """A matrix the other way round; the network's own tensor if that is what it is."""
        turned = known.tensor.t()
        for own in self.own.get(turned.data_ptr(), ()):
            if own.tensor.shape == turned.shape and own.tensor.stride() == turned.stride():
                return own
        return Known(turned.contiguous())

    def emit(
        self,
        call: Call,
        kind: str,
        inputs: Sequence[str],
        shape: Sequence[int],
        tensors: Mapping[str, Known | None] | None = None,
        **attrs: Any,
    ) -> str:
        """Add an operation and give the name of the value it writes.  Tensors of None are left."""
        output = self.value(call.node, shape)
        roles = {role: self.named(x) for role, x in (tensors or {}).items() if x is not None}
        self.ops.append(Draft(kind, call.module, list(inputs), output, roles, dict(attrs)))
        return output

    def held(
        self,
        call: Call,
        kind: str,
        inputs: Sequence[Held],
        tensors: Mapping[str, Known | None] | None = None,
        **attrs: Any,
    ) -> Held:
        """Add an operation that gives what the call gives."""
        names = [x.name for x in inputs]
        name = self.emit(call, kind, names, call.shape, tensors, **attrs)
        return Held(name, call.spot)

    def reshaped(self, call: Call, name: str, shape: Sequence[int]) -> str:
        """The value in another shape; itself if it has that already."""
        if self.shapes[name] == tuple(shape):
            return name
        return self.emit(call, "reshape", [name], shape)


__all__ = ["Batch", "Builder", "Call", "Draft", "Held", "Known"]

"""From the graph of torch.export to operations: node by node, in order."""

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.lowering.building import Batch, Builder, Call, Held, Known
from thrifty.lowering.exporting import Exported
from thrifty.lowering.fallbacks import fallback
from thrifty.lowering.rules import MOVES, RULES
from thrifty.lowering.sizes import Spot, size_of, spot_of

from thrifty.lowering import choosing, layers, moving, pointwise  # noqa: F401  isort: skip  (fill RULES)

EITHER = (
    "aten.add.Tensor",
    "aten.sub.Tensor",
    "aten.mul.Tensor",
    "aten.div.Tensor",
    "aten.rsub.Tensor",
    "aten.addmm.default",
    "aten.lerp.Tensor",
)
"""Operators of which another argument than the first may be the value."""


def walked(graph: Exported, model: nn.Module, builder: Builder) -> list[Held]:
    """Add all operations of ``graph`` to ``builder`` and give the network's outputs.

    Raises:
        UserError: an operation has no place in a program; the message names it and its module.
    """
    walker = _Walker(graph, model, builder)
    result: list[Held] = []
    for node in graph.program.graph.nodes:
        if node.op == "output":
            result = walker.outputs(node)
        elif node.op == "placeholder":
            walker.env[node.name] = walker.placeholder(node)
        elif node.op == "get_attr":
            walker.env[node.name] = walker.attribute(node)
        else:
            walker.env[node.name] = walker.call(node)
    return result


class _Walker:
    """What each node is, as far as the walk has come."""

    def __init__(self, graph: Exported, model: nn.Module, builder: Builder):
        self.graph, self.builder = graph, builder
        self.env: dict[str, Any] = {}
        self.state = dict(model.state_dict(keep_vars=True))
        signature = graph.program.graph_signature
        self.specs = {getattr(spec.arg, "name", ""): spec for spec in signature.input_specs}
        self.signature = signature
        for name, x in self.state.items():
            if isinstance(x, Tensor):
                known = Known(x.detach(), name)
                builder.own.setdefault(x.data_ptr(), []).append(known)

    def placeholder(self, node: torch.fx.Node) -> Any:
        spec = self.specs[node.name]
        if spec.kind.name == "USER_INPUT":
            return self._input(node)
        target = spec.target
        if target in self.state:
            return Known(self.state[target].detach(), target)
        tensor = self.graph.program.constants.get(target)
        if not isinstance(tensor, Tensor):
            raise UserError(f"the model's constant {target!r} is no tensor; a program has no other")
        return Known(tensor.detach())

    def _input(self, node: torch.fx.Node) -> Held:
        one, two = self.graph.pair(node)
        spot = spot_of(one, two) if isinstance(one, Tensor) else None
        if spot is None:
            raise UserError(f"the model's input {node.name!r} has no batch as its first dimension")
        name = self.builder.value(node.name, spot.stored)
        self.builder.inputs.append(name)
        return Held(name, spot)

    def attribute(self, node: torch.fx.Node) -> Any:
        value = getattr(self.graph.program.graph_module, str(node.target), None)
        if not isinstance(value, Tensor):
            raise UserError(
                f"module {module_of(node)!r} branches within the graph (torch.cond or the like), "
                f"which a program cannot"
            )
        return Known(value.detach())

    def call(self, node: torch.fx.Node) -> Any:
        one, two = self.graph.pair(node)
        if node.target is operator.getitem:
            return self._item(node)
        if not isinstance(node.target, torch._ops.OpOverload) or not _has_tensors(one):
            return self._number(one, two)
        given = self._given(node)
        for x in _leaves(given):
            if isinstance(x, UserError):
                raise UserError(f"module {module_of(node)!r}, operation {node.target}: {x}")
        if not any(isinstance(x, Held | Batch) for x in _leaves(given)):
            return self._folded(node, given)
        return self._lowered(node, given, one, two)

    def _item(self, node: torch.fx.Node) -> Any:
        source: Any = node.args[0]
        item = self.env[source.name][node.args[1]]
        if item is None:
            raise UserError(
                f"module {module_of(node)!r}, operation {source.target}: its result "
                f"{node.args[1]} has no place in a program"
            )
        return item

    def _number(self, one: Any, two: Any) -> Any:
        """A size, or why it is none, for whoever uses it."""
        if not isinstance(one, int | torch.SymInt):
            return UserError(f"a number is computed from the size of the batch: {str(one)[:80]}")
        try:
            return size_of(one, two)
        except UserError as error:
            return error

    def _given(self, node: torch.fx.Node) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        args, kwargs = self.graph.arguments(node)
        return (
            tuple(self._resolved(a, b) for a, b in zip(node.args, args, strict=True)),
            {key: self._resolved(x, kwargs[key]) for key, x in node.kwargs.items()},
        )

    def _resolved(self, one: Any, two: Any) -> Any:
        if isinstance(one, torch.fx.Node):
            return self.env[one.name]
        if isinstance(one, list | tuple):
            return [self._resolved(a, b) for a, b in zip(one, two, strict=True)]
        if isinstance(one, int) and not isinstance(one, bool) and one != two:
            return size_of(one, two)
        return one

    def _folded(self, node: torch.fx.Node, given: Any) -> Any:
        target: Any = node.target
        if torch.Tag.nondeterministic_seeded in target.tags:
            raise UserError(
                f"module {module_of(node)!r}, operation {target}: it is random, and a program "
                f"gives the same each time"
            )
        args, kwargs = _tensors(given[0]), _tensors(given[1])
        result: Any = target(*args, **kwargs)
        if isinstance(result, list | tuple):
            return [Known(x) if isinstance(x, Tensor) else x for x in result]
        return Known(result)

    def _lowered(self, node: torch.fx.Node, given: Any, one: Any, two: Any) -> Any:
        call = _call(node, given, one, two)
        floats = all(x.dtype == torch.float32 for x in _leaves(given) if isinstance(x, Held))
        rule = RULES.get(call.target)
        if rule is not None and (floats or call.target in MOVES) and _takes(call):
            result = rule(self.builder, call)
            if result is not None:
                return result
        return fallback(self.builder, call)

    def outputs(self, node: torch.fx.Node) -> list[Held]:
        result: list[Held] = []
        given: Any = node.args[0]
        for spec, x in zip(self.signature.output_specs, given, strict=True):
            if spec.kind.name != "USER_OUTPUT":
                raise UserError(
                    f"the model writes to {spec.target!r} as it runs; a program keeps nothing "
                    f"between inputs"
                )
            if isinstance(x, torch.fx.Node):
                result.append(self._output(self.env[x.name], len(result)))
            elif x is not None:
                raise UserError(f"the model gives {x!r}, which is no tensor")
        if not result:
            raise UserError("the model gives no tensor")
        return result

    def _output(self, x: Any, place: int) -> Held:
        if not isinstance(x, Held):
            raise UserError(f"output {place} of the model does not depend on its inputs")
        if not x.plain:
            raise UserError(
                f"output {place} of the model is {x.dtype} with the batch in dimension "
                f"{x.spot.axis}; a program gives float32 with the batch first and alone"
            )
        return x


def _call(node: torch.fx.Node, given: Any, one: Any, two: Any) -> Call:
    target: Any = node.target
    several = isinstance(one, list | tuple)
    pairs = list(zip(one, two, strict=True)) if several else [(one, two)]
    args = {x.name: x.default_value for x in target._schema.arguments if x.has_default_value()}
    names = [x.name for x in target._schema.arguments]
    args.update(zip(names, given[0], strict=False))
    args.update(given[1])
    call = Call(
        node=node.name,
        module=module_of(node),
        target=str(target),
        args=args,
        given=given,
        spots=(),
        dtypes=tuple(a.dtype if isinstance(a, Tensor) else torch.float32 for a, _ in pairs),
        several=several,
    )
    try:
        call.spots = tuple(_spot(a, b) for a, b in pairs)
    except UserError as error:
        raise UserError(f"{call.where}: {error}") from None
    return call


def _spot(one: Any, two: Any) -> Spot | None:
    return spot_of(one, two) if isinstance(one, Tensor) else None


def _takes(call: Call) -> bool:
    """Whether the first argument is a value or a list, as most rules expect."""
    first = call.given[0][0] if call.given[0] else None
    return isinstance(first, Held | list) or call.target in EITHER


def module_of(node: torch.fx.Node) -> str:
    """The dotted name of the module that called an operator; empty for the model itself."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = str(list(stack.values())[-1][0])
    return path.partition("@")[0]


def _has_tensors(x: Any) -> bool:
    return isinstance(x, Tensor) or (
        isinstance(x, list | tuple) and any(isinstance(y, Tensor) for y in x)
    )


def _leaves(x: Any) -> Iterator[Any]:
    if isinstance(x, list | tuple):
        for y in x:
            yield from _leaves(y)
    elif isinstance(x, Mapping):
        for y in x.values():
            yield from _leaves(y)
    else:
        yield x


def _tensors(x: Any) -> Any:
    if isinstance(x, list | tuple):
        return type(x)(_tensors(y) for y in x)
    if isinstance(x, Mapping):
        return {key: _tensors(y) for key, y in x.items()}
    return x.tensor if isinstance(x, Known) else x

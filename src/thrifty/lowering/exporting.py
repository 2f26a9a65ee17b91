"""A network as a graph of ATen operators, with a batch of any size.

torch.export runs the network once on shapes alone and notes the operators.  The size of the batch
is a symbol if the network's code lets it be one.  Where the code takes the size for a number (a
Python loop over the images, a comparison), the network is exported at two sizes: the graphs must be
the same, and each number in them either the same or proportional to the size of the batch.

Sizes are therefore told as pairs, of a batch of :data:`SIZES`, however they came about.
"""

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.nets.resizing import settle

SIZES = (2, 3)
"""Sizes of the batch at which a network is exported that does not bear a symbol."""

_WHOLE = """
_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d
avg_pool2d avg_pool3d batch_norm celu channel_shuffle conv1d conv1d.padding conv2d conv2d.padding
conv3d conv3d.padding conv_transpose1d conv_transpose2d.input conv_transpose3d.input elu gelu glu
grid_sampler group_norm gru.input hardsigmoid hardswish hardtanh instance_norm layer_norm
leaky_relu lerp.Scalar lerp.Tensor linear log_sigmoid log_softmax.int lstm.input matmul max_pool1d
max_pool2d max_pool3d mish pixel_shuffle pixel_unshuffle prelu reflection_pad1d reflection_pad2d
reflection_pad3d relu6 replication_pad1d replication_pad2d replication_pad3d rms_norm
rnn_relu.input rnn_tanh.input scaled_dot_product_attention selu silu softmax.int softplus
upsample_bicubic2d.vec upsample_bilinear2d.vec upsample_linear1d.vec upsample_nearest1d.vec
upsample_nearest2d.vec upsample_nearest3d.vec upsample_trilinear3d.vec std.correction
var.correction std.dim var.dim
"""

WHOLE = tuple(_WHOLE.split())
"""Operators of aten that are kept whole; all others are decomposed to the core of ATen."""


@dataclass(frozen=True)
class Exported:
    """A graph and what its sizes are.

    Args:
        program: of torch.export, without writing in place.
        twin: the same at the second of :data:`SIZES`; None if the batch is a symbol.
        notes: what a person should know of how it was exported.
    """

    program: Any
    twin: Any | None
    notes: tuple[str, ...]

    def pair(self, node: torch.fx.Node) -> tuple[Any, Any]:
        """What torch.export noted of a node, for each of SIZES; twice the same with a symbol."""
        return node.meta.get("val"), self._twins.get(node.name, node).meta.get("val")

    def arguments(self, node: torch.fx.Node) -> tuple[Any, Any]:
        """Arguments of a node at the second of SIZES; its own with a symbol."""
        twin = self._twins.get(node.name, node)
        return twin.args, twin.kwargs

    @cached_property
    def _twins(self) -> dict[str, torch.fx.Node]:
        return {} if self.twin is None else {node.name: node for node in self.twin.graph.nodes}


def exported(model: nn.Module, inputs: Sequence[Tensor]) -> Exported:
    """The graph of ``model`` in evaluation; the model is left as it was.

    Args:
        model: computes with float32 on the CPU.
        inputs: examples, the batch first.

    Raises:
        UserError: torch.export cannot follow the network; the message says where.
    """
    with evaluating(model), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch.export, about its own future
        settle(model)  # what modules know of the numbers of their buffers, which shapes do not tell
        try:
            return Exported(_export(model, inputs, SIZES[0], symbol=True), None, ())
        except Exception as error:  # of torch.export, of the network's code
            refused = _reason(error)
        try:
            one, two = (_export(model, inputs, size, symbol=False) for size in SIZES)
        except Exception as error:
            raise UserError(
                f"torch.export cannot follow {type(model).__name__}: {_reason(error)}; its forward "
                f"must take these inputs, and compute without branching on their numbers"
            ) from error
    _check_twins(one, two, type(model).__name__)
    note = (
        f"the size of the batch could not be a symbol ({refused}); the network was exported at "
        f"{SIZES[0]} and {SIZES[1]} images instead"
    )
    return Exported(one, two, (note,))


def resized(x: Tensor, size: int) -> Tensor:
    """The images of ``x``, repeated or left out so that there are ``size``."""
    times = -(-size // len(x))
    return torch.cat([x] * times)[:size].contiguous()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation inside; each module as it was afterwards, whatever forward sets or caches."""
    modules = list(model.modules())
    own = [copy.copy(module.__dict__) for module in modules]
    inside = [(x, copy.copy(x)) for attributes in own for x in attributes.values() if _mutable(x)]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, attributes in zip(modules, own, strict=True):
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for container, before in inside:
            container.clear()
            container.extend(before) if isinstance(container, list) else container.update(before)


def _mutable(x: object) -> bool:
    """Whether it is a container that code fills in place: a cache, or torch's own tables."""
    return isinstance(x, dict | list | set)


def _export(model: nn.Module, inputs: Sequence[Tensor], size: int, symbol: bool) -> Any:
    taken = tuple(resized(x, size) for x in inputs)
    dynamic: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call,unused-ignore]
    for x in taken if symbol else ():
        dynamic[x] = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        model, taken, dynamic_shapes=dynamic if symbol else None, strict=False
    )
    return program.run_decompositions(dict(_decompositions()))


@cache
def _decompositions() -> dict[Any, Any]:
    """By operator; torch would collect them anew for every network."""
    found: Any = torch.export.default_decompositions()
    table = dict(found.items())
    for name in WHOLE:
        packet, _, overload = name.partition(".")
        operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
        table.pop(operator, None)
    return table


def _reason(error: BaseException) -> str:
    """The first line that says something, short enough for a message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _check_twins(one: Any, two: Any, name: str) -> None:
    first, second = list(one.graph.nodes), list(two.graph.nodes)
    same = len(first) == len(second) and all(
        a.op == b.op and str(a.target) == str(b.target) and a.name == b.name
        for a, b in zip(first, second, strict=True)
    )
    if not same:
        raise UserError(
            f"{name} computes other things for {SIZES[0]} images than for {SIZES[1]}; a program "
            f"takes batches of any size, so its forward must not depend on the size"
        )

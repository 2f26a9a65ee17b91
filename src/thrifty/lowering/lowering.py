"""A network in torch as a program of the engine, with the tensors it needs.

The network is exported (:mod:`thrifty.lowering.exporting`), each operator becomes operations of the
program by its rule or a fallback, what does not depend on the inputs is computed now, and
operations are merged (:mod:`thrifty.lowering.fusing`).  Then network and program are both run, on
batches of two sizes, and must agree: nobody has to believe the rules.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thrifty.engine.program import Op, Program
from thrifty.errors import UserError
from thrifty.lowering.building import Builder, Held
from thrifty.lowering.exporting import evaluating, exported, resized
from thrifty.lowering.fusing import fused
from thrifty.lowering.interpreting import prepared
from thrifty.lowering.walking import walked

TOLERANCE = 1e-3
"""Of the largest output; another order of sums in a deep network gives up to 1e-5."""


@dataclass(frozen=True)
class Lowered:
    """A program, the tensors it names, and what a person should know.

    Args:
        program: operations of the engine.
        tensors: name to tensor; the network's own are not copied.
        notes: how the network was exported, if not in the usual way.
    """

    program: Program
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def lower(model: nn.Module, example: Tensor | Sequence[Tensor], *, check: bool = True) -> Lowered:
    """The program of ``model`` in evaluation; the model is left as it is.

    Args:
        model: float32, on the CPU; its forward takes tensors and gives tensors.
        example: what it takes, the batch first, float32; several inputs as a sequence.
        check: run both on the example and compare.

    Raises:
        UserError: the model cannot be exported, does what a program has no word for, or the
            program does not give what the model gives; the message names module and operation.
    """
    inputs = _inputs(example)
    _check_model(model)
    graph = exported(model, inputs)
    builder = Builder()
    with torch.no_grad():
        outputs = walked(graph, model, builder)
        program, tensors = _program(builder, outputs)
    lowered = Lowered(program, tensors, graph.notes)
    if check:
        for size in {1, len(inputs[0])}:
            _check(model, lowered, [resized(x, size) for x in inputs])
    return lowered


def _inputs(example: Tensor | Sequence[Tensor]) -> list[Tensor]:
    inputs = [example] if isinstance(example, Tensor) else list(example)
    if not inputs:
        raise UserError("the example has no inputs; give a tensor with the batch first")
    for i, x in enumerate(inputs):
        if not isinstance(x, Tensor) or x.dtype != torch.float32 or x.device.type != "cpu":
            said = f"{x.dtype} on {x.device}" if isinstance(x, Tensor) else type(x).__name__
            raise UserError(f"input {i} of the example is {said}; it must be float32 on the CPU")
        if x.dim() < 2 or x.numel() == 0 or len(x) != len(inputs[0]):
            raise UserError(
                f"input {i} of the example has the shape {tuple(x.shape)}; it needs the batch "
                f"first, which is the same for all inputs, and no side of 0"
            )
    return [x.detach().contiguous() for x in inputs]


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise UserError(f"{type(model).__name__} is no torch.nn.Module")
    for name, x in (*model.named_parameters(), *model.named_buffers()):
        wrong = x.is_floating_point() and x.dtype != torch.float32
        if wrong or x.is_complex() or x.device.type != "cpu" or x.layout != torch.strided:
            raise UserError(
                f"{name} of the model is {x.dtype} on {x.device} ({x.layout}); the engine computes "
                f"in float32 on the CPU: call model.float().cpu() on a dense model"
            )


def _program(builder: Builder, outputs: Sequence[Held]) -> tuple[Program, dict[str, Tensor]]:
    graph = fused(builder, [x.name for x in outputs])
    written = {*builder.inputs, *(op.output for op in graph.ops)}
    program = Program(
        inputs=tuple(builder.inputs),
        outputs=tuple(graph.outputs),
        values={name: shape for name, shape in graph.shapes.items() if name in written},
        ops=tuple(
            Op(op.kind, op.name, tuple(op.inputs), op.output, dict(op.tensors), _attrs(op.attrs))
            for op in graph.ops
        ),
    )
    tensors = {name: builder.tensors[name].detach() for name in program.tensors}
    program.check_tensors({name: tuple(x.shape) for name, x in tensors.items()})
    return program, tensors


def _attrs(attrs: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in attrs.items() if key != "then" or value}


def _check(model: nn.Module, lowered: Lowered, inputs: Sequence[Tensor]) -> None:
    given = prepared(lowered.program, lowered.tensors)(*inputs)
    wrong = _difference(evaluated(model, inputs), given)
    if wrong and not _agree_in_double(model, lowered, inputs):
        raise UserError(
            f"{wrong} in a batch of {len(inputs[0])}; the model's forward may depend on more than "
            f"its inputs (randomness, the other images of a batch)"
        )


def _difference(expected: object, given: object) -> str:
    """What is wrong with the program's outputs; nothing if they are the model's."""
    for i, (one, two) in enumerate(zip(_flat(expected), _flat(given), strict=True)):
        if one.shape != two.shape:
            return f"output {i} of the program is {tuple(two.shape)}, not {tuple(one.shape)}"
        finite = one.isfinite()
        one, two = one[finite], two[finite]
        scale = float(one.abs().max()) if one.numel() else 0.0
        error = float((one - two).abs().max()) if one.numel() else 0.0
        if not error <= TOLERANCE * max(scale, 1e-30):
            return (
                f"output {i} of the program differs from the model's by {error:.2g} of {scale:.2g}"
            )
    return ""


def _agree_in_double(model: nn.Module, lowered: Lowered, inputs: Sequence[Tensor]) -> bool:
    """Whether both agree in float64, where a network that amplifies rounding is itself again."""
    try:
        exact = copy.deepcopy(model).double()
        wide = [x.double() for x in inputs]
        expected = evaluated(exact, wide)
        tensors = {
            k: x.double() if x.is_floating_point() else x for k, x in lowered.tensors.items()
        }
        given = prepared(lowered.program, tensors, torch.float64)(*wide)
    except Exception:  # code that does not take float64, or cannot be copied
        return False
    return not _difference(expected, given)


def evaluated(model: nn.Module, inputs: Sequence[Tensor]) -> object:
    """What the model gives in evaluation; it is left as it was."""
    with evaluating(model), torch.no_grad():
        return model(*inputs)


def _flat(outputs: object) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(outputs)
    return [x for x in leaves if isinstance(x, Tensor)]


__all__ = ["Lowered", "evaluated", "lower"]

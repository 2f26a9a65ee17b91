"""The operations of a network as ONNX, and whether onnxruntime gives torch's answers with them."""

import copy
import importlib.metadata
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thrifty.errors import MissingExtra, UserError
from thrifty.nets.architecture import architecture_of
from thrifty.pack.contents import Contents

TOLERANCE = 1e-4
"""Largest difference of outputs allowed, relative to the largest output, in float32."""
MOST = (1 << 31) - 1
"""Bytes of a protobuf message; a larger network needs its weights in another file."""
BATCHES = (2, 3)
"""Sizes of a batch with which a file is checked: one that was not exported is among them."""


def under_masks(held: Contents) -> tuple[nn.Module, Tensor]:
    """A copy of the network in eval mode with the tensors to be written, and an example.

    Raises:
        UserError: nothing says what an input is, or the network does not take it.
    """
    if held.model is None:
        raise UserError("this format writes the operations of a network; give the network itself")
    model = copy.deepcopy(held.model).cpu().eval()
    there = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, x in held.tensors.items():
            if name in there:
                there[name].copy_(x)
    example = _example(held, model)
    outputs_of(model, example)
    return model, example


def _example(held: Contents, model: nn.Module) -> Tensor:
    if held.example is not None:
        return held.example.detach().cpu()
    known = architecture_of(held.model) if held.model is not None else None
    if known is None or known.shape is None:
        raise UserError(
            f"{type(model).__name__} does not say what an input is; give an example of the inputs "
            f"(--shape 3x224x224 or --data on the command line, example= in Python)"
        )
    generator = torch.Generator().manual_seed(0)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.randn(2, *known.shape, generator=generator).to(dtype)


def onnx_of(model: nn.Module, example: Tensor, *, fixed: bool = False) -> tuple[bytes, bool]:
    """``model`` as an ONNX file with the weights in it, and whether its batch is dynamic.

    Args:
        model: in eval mode, on the CPU; takes one tensor.
        example: (batch, ...); a batch of one is doubled, for torch takes one for a constant.
        fixed: the batch of the example, and no other.

    Raises:
        MissingExtra: onnx or onnxscript is not installed.
        UserError: the exporter does not know an operation, or the file would exceed 2 GiB.
    """
    for package in ("onnx", "onnxscript"):
        _needs(package, "writing ONNX")
    size = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    if size > MOST:
        raise UserError(
            f"{type(model).__name__} has {size:,} bytes of weights and an ONNX file holds at most "
            f"{MOST:,}; export it as safetensors"
        )
    if not fixed:
        several = torch.cat([example, example]) if len(example) == 1 else example
        batch = torch.export.Dim("batch", min=1)
        try:
            content, dynamic = _exported(model, several, ({0: batch},))
            if dynamic or len(several) == len(example):
                return content, dynamic
        except UserError:
            pass  # code of the network made a constant of the batch, or cannot be exported at all
    return _exported(model, example, None)


def _exported(model: nn.Module, example: Tensor, shapes: Any) -> tuple[bytes, bool]:
    """An ONNX file, and whether its batch is dynamic: asked for, torch may still not make it so."""
    with _quiet():
        try:
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=["input"],
                verbose=False,
            )
        except Exception as error:  # the exporter passes on whatever it meets
            reason = _reason(error)
            raise UserError(
                f"{type(model).__name__} cannot be written as ONNX: {reason}; export it as "
                f"safetensors, or change what torch.export cannot follow"
            ) from None
    if program is None:
        raise UserError(f"{type(model).__name__} cannot be written as ONNX: torch gave no program")
    proto = program.model_proto
    _bare(proto.graph)
    sizes = proto.graph.input[0].type.tensor_type.shape.dim if proto.graph.input else []
    return proto.SerializeToString(), bool(sizes and sizes[0].dim_param)


def _bare(graph: Any) -> None:
    """In place: take from an ONNX graph what no runtime reads.

    Torch notes at every operation the code it comes from, with the paths of the machine that
    exports and its stack, and the shape of every value, which runtimes infer: of a network of few
    weights and many operations that is most of the file.
    """
    for named in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        named.ClearField("doc_string")
        named.ClearField("metadata_props")
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                _bare(inner)


def _reason(error: BaseException) -> str:
    """The first line of what torch met first: its own exceptions wrap it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch warns and logs of its own workings as it exports, which no user can mend."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _needs(package: str, purpose: str) -> None:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtra("onnx", package, purpose) from None


def check_onnx(content: bytes, model: nn.Module, example: Tensor) -> dict[str, Any]:
    """How far onnxruntime's answers with an ONNX file lie from torch's.

    Returns:
        ``checked`` names the onnxruntime, or says that there is none; ``difference`` is the
        largest, relative to the largest output.

    Raises:
        UserError: they differ by more than :data:`TOLERANCE`, or onnxruntime refuses the file.
    """
    try:
        import onnxruntime
    except ImportError:
        return {"checked": "no: onnxruntime is not installed", "difference": None}
    worst = 0.0
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0]
        for batch in BATCHES if isinstance(given.shape[0], str) else (len(example),):
            x = resized(example, batch)
            found = session.run(None, {given.name: x.numpy()})
            worst = max(worst, _difference(found, model, x))
    except UserError:
        raise
    except Exception as error:  # onnxruntime has exceptions of its own, of no common base
        raise UserError(
            f"onnxruntime {onnxruntime.__version__} refuses the ONNX file of "
            f"{type(model).__name__}: {_reason(error)}; nothing was written"
        ) from None
    if not worst <= TOLERANCE:
        raise UserError(
            f"onnxruntime {onnxruntime.__version__} and torch differ by {worst:.2g} of the largest "
            f"output of {type(model).__name__}, where {TOLERANCE:g} is allowed; nothing was written"
        )
    return {"checked": f"onnxruntime {onnxruntime.__version__}", "difference": worst}


def resized(example: Tensor, batch: int) -> Tensor:
    """``batch`` inputs, the first of the example, repeated where it has fewer."""
    times = math.ceil(batch / len(example))
    return example.repeat(times, *(1,) * (example.dim() - 1))[:batch].contiguous()


@torch.no_grad()
def outputs_of(model: nn.Module, x: Tensor) -> Any:
    """What ``model`` gives for ``x``.

    Raises:
        UserError: it does not take such inputs.
    """
    try:
        return model(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UserError(
            f"{type(model).__name__} does not take inputs of shape {list(x.shape)}: "
            f"{_reason(error)}; give those it was built for"
        ) from error


def _difference(found: list[NDArray[Any]], model: nn.Module, x: Tensor) -> float:
    outputs = outputs_of(model, x)
    expected = outputs if isinstance(outputs, tuple | list) else [outputs]
    return max(relative_difference(a, b.numpy()) for a, b in zip(found, expected, strict=False))


def relative_difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest absolute difference over the largest absolute value expected.

    Infinite if shapes differ or one has a number where the other has none.

    Example:
        >>> relative_difference(np.array([1.0, 2.5]), np.array([1.0, 2.0]))
        0.25
    """
    if found.shape != expected.shape:
        return math.inf
    if not expected.size:
        return 0.0
    a, b = found.astype(np.float64), expected.astype(np.float64)
    whole = np.isfinite(b)
    if not np.array_equal(a[~whole], b[~whole], equal_nan=True):
        return math.inf
    scale = float(np.abs(b[whole]).max(initial=0.0)) or 1.0
    return float(np.abs(a[whole] - b[whole]).max(initial=0.0)) / scale

"""``thrifty.compile``: an engine from a file or a model, with torch for what the engine lacks."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from thrifty.container import Reader
from thrifty.engine import Engine, load
from thrifty.engine.program import Op
from thrifty.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIX = ".thrifty"


def compile(source: "str | Path | nn.Module", example: Any = None, threads: int = 1) -> Engine:
    """An engine that runs a network on the CPU, zeros left out.

    Args:
        source: a ``.thrifty`` file, or another that :func:`thrifty.load` reads, or a model, which
            is read once and left as it is.  Torch is needed unless the file has a program.
        example: an input as the model takes it, with its batch dimension; not needed for files,
            nor for networks of thrifty.
        threads: used at most for a call.

    Raises:
        UserError: there is no such file, or the model cannot be followed.

    Example:
        >>> engine = compile("net.thrifty", threads=2)  # doctest: +SKIP
        >>> engine(pictures)  # doctest: +SKIP
    """
    if isinstance(source, str | Path):
        if _has_program(source):
            return load(source, threads, _stand)
        from thrifty.pack import load as load_model

        source = load_model(source)
    from thrifty.lowering import lower

    lowered = lower(source, _example(source) if example is None else example)
    arrays = {name: x.detach().cpu().numpy() for name, x in lowered.tensors.items()}
    return Engine(lowered.program, arrays, threads, _stand)


def _has_program(path: str | Path) -> bool:
    if not str(path).lower().endswith(SUFFIX):
        return False
    with Reader(path) as reader:
        return "program" in reader.metadata


def _example(model: "nn.Module") -> "Tensor":
    import torch

    from thrifty.nets import architecture_of

    known = architecture_of(model)
    if known is None or known.shape is None:
        raise UserError(
            f"{type(model).__name__} does not say what an input is; give example=, an input with "
            f"its batch dimension"
        )
    return torch.zeros(2, *known.shape)


def _stand(op: Op, arrays: Any, tensors: Any, shape: tuple[int, ...]) -> Any:
    """One operation in torch."""
    from thrifty.lowering.interpreting import run_op

    return run_op(op, arrays, tensors, shape)

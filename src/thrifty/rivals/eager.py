"""What the rivals in eager torch share: threads kept, and the faster of two layouts."""

import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.rivals import Array, Run

TRIED = 5
"""Calls of each layout when one is chosen; the fastest call counts, for noise only adds time."""


def eager(model: nn.Module, example: Tensor, threads: int, dtype: torch.dtype) -> Run:
    """``model`` in eager torch in ``dtype``, with channels last where that is faster."""
    plain = copy.deepcopy(model).cpu().eval().to(dtype)
    found = [_in_layout(plain, torch.contiguous_format, threads, dtype)]
    if example.dim() == 4:
        last = copy.deepcopy(plain).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        found.append(_in_layout(last, torch.channels_last, threads, dtype))
    x = example.numpy()
    return min(found, key=lambda run: _fastest(run, x)) if len(found) > 1 else found[0]


def _in_layout(
    model: nn.Module, layout: torch.memory_format, threads: int, dtype: torch.dtype
) -> Run:
    def run(x: Array) -> Array:
        if torch.get_num_threads() != threads:  # it is one number for the whole process
            torch.set_num_threads(threads)
        with torch.inference_mode():
            given = torch.from_numpy(x).to(dtype, memory_format=layout)
            return single(model(given)).float().contiguous().numpy()

    return run


def single(outputs: object) -> Tensor:
    """The one tensor that a network gives.

    Raises:
        UserError: it gives several, or something else.
    """
    if isinstance(outputs, tuple | list) and len(outputs) == 1:
        outputs = outputs[0]
    if not isinstance(outputs, Tensor):
        raise UserError(
            f"the network gives a {type(outputs).__name__} and not one tensor; wrap it in a module "
            f"that gives the one to compare"
        )
    return outputs


def _fastest(run: Callable[[Array], Array], x: Array) -> float:
    run(x)
    times = []
    for _ in range(TRIED):
        start = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - start)
    return min(times)


def version() -> str:
    """Of torch."""
    return f"torch {torch.__version__}"

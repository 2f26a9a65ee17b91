"""What the rivals in OpenVINO share: a network compiled for latency at a stated precision.

Left alone OpenVINO takes bfloat16 where the processor has it, so the precision is always stated
and read back.  Inputs and outputs are bound ahead, which saves what its Python layer does a call.
The number of threads is fixed, and they are not tied to cores: tied ones were as fast at best
(0.73 and 0.72 ms for ResNet-20) and 1.6 times slower at the median where others used the cores.
"""

from typing import Any

import numpy as np
from torch import Tensor, nn

from thrifty.errors import MissingExtra, UserError
from thrifty.rivals import Array, Run
from thrifty.rivals.graphs import graph_of


def package() -> Any:
    """The module openvino.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import openvino
    except ImportError:
        raise MissingExtra("bench", "openvino", "the rival openvino") from None
    return openvino


def compiled(model: nn.Module, example: Tensor, threads: int, precision: str) -> Run:
    """``model`` compiled for batches like ``example``.

    Args:
        precision: ``"f32"`` or ``"bf16"``.

    Raises:
        UserError: the processor does not compute in that precision.
    """
    ov = package()
    core = ov.Core()
    network = core.read_model(graph_of(model, example), b"")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    request = core.compile_model(network, "CPU", settings)
    _check_precision(request, precision, ov)
    request = request.create_infer_request()
    given = np.empty(tuple(example.shape), np.float32)
    request.set_input_tensor(ov.Tensor(given, shared_memory=True))
    outputs = request.get_output_tensor(0).data

    def run(x: Array) -> Array:
        np.copyto(given, x)
        request.infer()
        return outputs  # type: ignore[no-any-return]

    run(example.numpy())
    return run


def _check_precision(network: Any, precision: str, ov: Any) -> None:
    wanted = {"f32": ov.Type.f32, "bf16": ov.Type.bf16}[precision]
    found = network.get_property("INFERENCE_PRECISION_HINT")
    if found != wanted:
        raise UserError(
            f"openvino computes in {found.get_type_name()} on this processor and not in "
            f"{precision}; leave this rival out"
        )


def version() -> str:
    """Of openvino."""
    return f"openvino {package().__version__.partition('-')[0]}"

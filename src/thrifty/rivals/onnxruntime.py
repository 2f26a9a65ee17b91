"""onnxruntime on its CPU provider, with every optimisation of the graph.

Of the settings that were tried, outputs bound ahead and a fixed batch gain a few microseconds a
call; the arena and the sequential mode are its defaults, and stated so that they stay.  Threads
stop spinning when a call ends, for those of the next contender need the cores.
"""

from typing import Any

import numpy as np
from torch import Tensor, nn

from thrifty.errors import MissingExtra
from thrifty.rivals import RIVALS, Array, Rival, Run
from thrifty.rivals.graphs import graph_of


def _package() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("bench", "onnxruntime", "the rival onnxruntime") from None
    return onnxruntime


def _load(model: nn.Module, example: Tensor, threads: int) -> Run:
    ort = _package()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = True
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(
        graph_of(model, example), options, providers=["CPUExecutionProvider"]
    )
    given = session.get_inputs()[0].name
    names = [session.get_outputs()[0].name]

    def run(x: Array) -> Array:
        return session.run(names, {given: x})[0]  # type: ignore[no-any-return]

    run(np.ascontiguousarray(example.numpy()))
    return run


RIVALS.add(
    "onnxruntime",
    Rival(
        about="onnxruntime, float32, all graph optimisations",
        load=_load,
        version=lambda: f"onnxruntime {_package().__version__}",
    ),
)

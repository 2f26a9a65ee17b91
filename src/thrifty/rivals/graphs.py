"""The ONNX file that the runtimes are given: of the example's batch and no other.

The file of the last network and batch is kept, for several rivals, each at several numbers of
threads, are given the same one and writing it takes seconds.
"""

import weakref

from torch import Tensor, nn

from thrifty.pack.operations import onnx_of

_last: tuple["weakref.ref[nn.Module]", tuple[object, ...], bytes] | None = None


def graph_of(model: nn.Module, example: Tensor) -> bytes:
    """``model`` as an ONNX file with a fixed batch, on which every shape can be folded.

    Raises:
        MissingExtra: onnx or onnxscript is not installed.
        UserError: it cannot be exported.
    """
    global _last
    state = tuple((x.data_ptr(), x._version) for x in model.state_dict().values())
    key = (tuple(example.shape), example.dtype, state)
    if _last is not None and _last[0]() is model and _last[1] == key:
        return _last[2]
    content, _ = onnx_of(model, example, fixed=True)
    _last = (weakref.ref(model), key, content)
    return content

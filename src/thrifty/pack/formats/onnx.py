"""ONNX by torch's own exporter, checked in onnxruntime against torch where that is installed.

The batch is dynamic; where the exporter cannot make it so, the file takes the example's batch
and that is said.  Zeros are zeros in the file, which dense runtimes multiply like any number.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thrifty.pack.contents import Contents
from thrifty.pack.operations import check_onnx, onnx_of, under_masks
from thrifty.pack.saving import FORMATS, Format


def _write(held: Contents, path: Path) -> Mapping[str, Any]:
    model, example = under_masks(held)
    content, dynamic = onnx_of(model, example)
    checked = check_onnx(content, model, example)
    path.write_bytes(content)
    return {"batch": "any" if dynamic else str(len(example)), **checked}


FORMATS.add(
    "onnx",
    Format(
        about="ONNX with the operations, for onnxruntime, OpenVINO and others; only written",
        suffix=".onnx",
        write=_write,
        read=None,
        instead="`thrifty look` counts its weights, onnxruntime runs it",
    ),
)

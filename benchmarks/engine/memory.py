"""The largest memory of a process that loads a network from its file and runs it.

One process a contender: thrifty's engine from a ``.thrifty`` file, without torch; onnxruntime and
OpenVINO from ONNX.  The network is pruned by magnitude first.  What an empty process with numpy
takes is printed beside it.

    python benchmarks/engine/memory.py [--network resnet50] [--sparsity .9] [--batch 1]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from networks import NETWORKS, pruned

from thrifty.pack.exporting import export
from thrifty.pack.packing import pack

HEAD = """
import re, sys
import numpy as np
x = np.random.default_rng(0).standard_normal({shape}).astype(np.float32)
"""
TAIL = """
# Not from getrusage: there a process begins with what its parent had.
print(int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024)
"""
RUNS = {
    "numpy alone": "",
    "thrifty": """
from thrifty import engine
net = engine.load({thrifty!r})
net(x), net(x)
assert "torch" not in sys.modules
""",
    "onnxruntime": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
net = onnxruntime.InferenceSession({onnx!r}, options, providers=["CPUExecutionProvider"])
for _ in range(2):
    net.run(None, {{net.get_inputs()[0].name: x}})
""",
    "openvino": """
import openvino
core = openvino.Core()
net = core.compile_model(
    core.read_model({onnx!r}),
    "CPU",
    {{"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}},
)
for _ in range(2):
    net(x)
""",
}


def main() -> None:
    """Print a line a contender."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="resnet50")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--batch", type=int, default=1)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, shape = pruned(said.network, said.sparsity), NETWORKS[said.network].shape
        example = torch.zeros(said.batch, *shape)
        files = {"thrifty": f"{folder}/net.thrifty", "onnx": f"{folder}/net.onnx"}
        pack(model, files["thrifty"], example=example)
        export(model, Path(files["onnx"]), "onnx", example=example)
        for name, text in RUNS.items():
            program = (HEAD + text + TAIL).format(shape=(said.batch, *shape), **files)
            done = subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True, check=True
            )
            print(f"{name:12} {float(done.stdout.split()[-1]):8.1f} MiB")


if __name__ == "__main__":
    main()

"""What multiply-adds saved are worth in time: smaller networks in onnxruntime, batch 1 and 32.

Channels are removed by L1 norm to several shares of the multiply-adds, with channel counts as
they come (round=1) and rounded to multiples of 8; every network is exported to ONNX, its answers
are compared with torch's, and it is timed in turns with the whole one.  Weights are random: time
does not depend on them.

    python benchmarks/channels/latency.py [--networks resnet20 torchvision:resnet18]
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import onnxruntime
import torch
from timing import conditions, interleaved, ratios
from torch import nn

import thrifty
from thrifty.nets import count_macs
from thrifty.pruning.structured import prune_channels

SHAPES = {"resnet20": (3, 32, 32), "resnet56": (3, 32, 32)}
SHARES = (0.75, 0.5, 0.25)


def session(model: nn.Module, shape: tuple[int, ...], folder: Path, name: str) -> Callable:
    """A function of a batch, run by onnxruntime on one thread; its answers are torch's."""
    path = folder / f"{name}.onnx"
    batch = torch.export.Dim("batch", min=1, max=256)
    program = torch.onnx.export(
        model.eval(),
        (torch.randn(2, *shape),),
        dynamo=True,
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    program.save(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    runtime = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = runtime.get_inputs()[0].name
    x = torch.randn(3, *shape)
    with torch.no_grad():
        gap = np.abs(runtime.run(None, {given: x.numpy()})[0] - model(x).numpy()).max()
    if not gap < 1e-3:
        raise SystemExit(f"{name}: onnxruntime and torch differ by {gap:.2g}")
    return lambda batch: runtime.run(None, {given: batch})


def main() -> None:
    """Export, compare, time, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["resnet20", "torchvision:resnet18"])
    parser.add_argument("--rounds", type=int, default=30)
    said = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{conditions()}; onnxruntime {onnxruntime.__version__}, 1 thread")
    print(f"{'network':24} {'round':>5} {'MACs':>7} {'params':>7}   time at batch 1, at batch 32")
    for name in said.networks:
        shape = SHAPES.get(name, (3, 224, 224))
        torch.manual_seed(0)
        whole = thrifty.resolve(name).eval()
        macs, params = count_macs(whole, shape), sum(p.numel() for p in whole.parameters())
        with tempfile.TemporaryDirectory() as folder:
            dense = session(whole, shape, Path(folder), "dense")
            for share in SHARES:
                for multiple in (1, 8):
                    budget = thrifty.Budget(share, of="macs")
                    example = torch.randn(2, *shape)
                    small = prune_channels(whole, "l1_filter", budget, example, round=multiple)
                    ours = session(small, shape, Path(folder), f"{share}-{multiple}")
                    found = []
                    for size in (1, 32):
                        x = np.random.default_rng(0).standard_normal((size, *shape), np.float32)
                        calls = max(1, int(2e8 // (macs * size)))
                        runs = {"dense": partial(dense, x), "ours": partial(ours, x)}
                        times = interleaved(runs, said.rounds, calls)
                        _, middle, _ = ratios(times["ours"].cpu, times["dense"].cpu)
                        took = statistics.median(times["dense"].cpu) * 1e3
                        found.append(f"{middle:6.1%} of {took:8.2f} ms")
                    left = sum(p.numel() for p in small.parameters()) / params
                    print(
                        f"{name:24} {multiple:>5} {count_macs(small, shape) / macs:7.1%} "
                        f"{left:7.1%}   {',  '.join(found)}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()

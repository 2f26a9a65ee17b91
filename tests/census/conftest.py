"""Tensors and files of a few weights, whose counts are known by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from thrifty.sources import BITS, Stored


@pytest.fixture
def stored() -> Callable[..., Stored]:
    """Makes a tensor of an array, given in pieces of a few elements."""

    def make(name: str, array: np.ndarray, dtype: str = "F32", piece: int = 3, **more) -> Stored:
        flat = np.ascontiguousarray(array).reshape(-1).view(BITS[dtype])

        def read():
            for start in range(0, len(flat), piece):
                yield flat[start : start + piece]

        return Stored(name, array.shape, dtype, read, **more)

    return make


@pytest.fixture
def conv_net(tmp_path) -> Path:
    """A file of a convolution, its batch normalisation, and a linear layer."""
    rng = np.random.default_rng(0)
    tensors = {
        "conv1.weight": rng.normal(0, 0.1, (4, 3, 3, 3)),
        "bn1.weight": rng.uniform(0.5, 2, 4),
        "bn1.bias": rng.normal(0, 1, 4),
        "bn1.running_mean": rng.normal(0, 1, 4),
        "bn1.running_var": rng.uniform(0.5, 2, 4),
        "fc.weight": np.array([[0.5, -0.05], [0.0, -0.0]]),
        "fc.bias": np.array([2.0, 0.0]),
    }
    path = tmp_path / "net.safetensors"
    save_file({k: v.astype(np.float32) for k, v in tensors.items()}, path)
    return path

"""A population in JAX: vmap over grad, scanned over steps, compiled; in a process of its own.

JAX may be installed for another interpreter than thrifty.  This file is run by it, reads the
problem from an npz file, and then a line a round: the number of scans to do.  It answers with
the seconds of the clock and of the processor.  Only numpy and jax are imported there.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


class Jax:
    """The other process.

    Args:
        python: the interpreter that has jax.
        file: npz of ``layers`` (JSON), ``rows`` (steps, batch) and the weights ``w0``, ``w1``, ...
    """

    def __init__(self, python: str, file: Path, models: int, threads: int):
        self.models = models
        told = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "THREADS": str(threads)}
        single = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        flags = {"XLA_FLAGS": single} if threads == 1 else {}
        self._process = subprocess.Popen(
            [python, __file__, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **told, **flags},
        )
        self.version = str(self._answer()["version"])

    def run(self, steps: int) -> tuple[float, float]:
        """Seconds of the clock and of the processor of so many steps."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        said = self._answer()
        return said["wall"], said["cpu"]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process of JAX ended")
        found: dict[str, Any] = json.loads(line)
        return found


def version(python: str) -> str | None:
    """Of the jax of an interpreter; ``None`` if it has none."""
    try:
        done = subprocess.run(
            [python, "-c", "import jax; print(jax.__version__)"], capture_output=True, text=True
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def main(path: str) -> None:
    """Compile, write the answers beside the problem, and then run what is asked for."""
    threads = int(os.environ["THREADS"])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", False)
    with np.load(path) as file:
        said = {name: file[name] for name in file.files}
    layers = json.loads(str(said["layers"]))
    rate, decay, beta1, beta2, epsilon = said["numbers"].tolist()
    weights = [jnp.asarray(said[f"w{i}"]) for i in range(2 * len(layers))]
    x, y, rows = (jnp.asarray(said[name]) for name in ("x", "y", "rows"))
    acts = {"none": lambda v: v, "tanh": jnp.tanh, "relu": jax.nn.relu}

    def forward(w: list[Any], v: Any) -> Any:
        for number, layer in enumerate(layers):
            own, bias = w[2 * number], w[2 * number + 1]
            if layer["conv"]:
                pads = [(layer["padding"],) * 2] * 2
                v = jax.lax.conv_general_dilated(v, own, (layer["stride"],) * 2, pads)
                v = v + bias[:, None, None]
                if layer["pool"] > 1:
                    side, step = layer["pool"], layer["pool_stride"]
                    v = jax.lax.reduce_window(
                        v, -jnp.inf, jax.lax.max, (1, 1, side, side), (1, 1, step, step), "VALID"
                    )
            else:
                v = v.reshape(len(v), -1) @ own.T + bias
            v = acts[layer["act"]](v)
        return v

    def loss(w: list[Any], v: Any, labels: Any) -> Any:
        told = jax.nn.log_softmax(forward(w, v))
        return -jnp.take_along_axis(told, labels[:, None], 1).mean()

    gradients = jax.vmap(jax.grad(loss), in_axes=(0, None, None))

    def step(state: Any, picked: Any) -> tuple[Any, None]:
        w, first, second, number = state
        number = number + 1
        g = gradients(w, x[picked], y[picked])
        g = [a + decay * b for a, b in zip(g, w, strict=True)]
        first = [beta1 * a + (1 - beta1) * b for a, b in zip(first, g, strict=True)]
        second = [beta2 * a + (1 - beta2) * b * b for a, b in zip(second, g, strict=True)]
        bias, root = 1 - beta1**number, jnp.sqrt(1 - beta2**number)
        w = [
            p - rate / bias * a / (jnp.sqrt(b) / root + epsilon)
            for p, a, b in zip(w, first, second, strict=True)
        ]
        return (w, first, second, number), None

    scan = jax.jit(lambda state, picked: jax.lax.scan(step, state, picked)[0])
    zeros = [jnp.zeros_like(w) for w in weights]
    state = scan((weights, zeros, zeros, jnp.float32(0)), rows)
    jax.block_until_ready(state)
    np.savez(f"{path}.answers.npz", *[np.asarray(w) for w in state[0]])
    print(json.dumps({"version": jax.__version__}), flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(max(1, int(line) // len(rows))):
            state = scan(state, rows)
        jax.block_until_ready(state)
        took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

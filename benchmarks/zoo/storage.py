"""Reading a zoo of 10,000 models: one model at random, one layer of all.

Question: what do a random model and one layer over the whole zoo cost, once the zoo is open?
Run:      python benchmarks/zoo/storage.py [--models 10000] [--rounds 30]

Last:     a random model 5.7 us (safetensors library with handles kept 32, a file a model 66); one
          layer of 10,000 models in one shard, joined by thrifty zoo join, 0.004 ms whatever its
          size, for it is a view; of 10 shards 0.19 ms (conv3, 3.8 MB), 2.6 ms (fc1, 28.8 MB),
          9.8 ms (conv2, 48 MB), for it is copied, and 0.02 ms shard by shard without a copy;
          opening 2.8 ms, without index.parquet 32 ms; joining 2.9 s of the clock; AMD EPYC,
          numpy 2.4.6, 1 thread, other jobs on both cores, 2026-11-21

Copies were also tried on two threads, into pages of 2 MB, and into an array that is kept: 8.4, 31
and 3.8 ms for conv2, against 7.8 then.  It is pages that are handed out, not bytes, that take the
time, and no copy of that size meets 2 ms.

The models are of zoo_cnn_s (2,464 parameters in 10 tensors) with normal weights, 1,024 a shard,
in the page cache, and joined into one shard.  Beside thrifty.Zoo stand the same shards through the
safetensors library with its handles kept, and one safetensors file a model.  All answers are
compared before the clock starts.  A time is that of the thread, the median of the rounds; a round
of random models is 500.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import thrifty
from thrifty.zoo.folder import Folder
from thrifty.zoo.index import rebuild, write_rows
from thrifty.zoo.joining import join
from thrifty.zoo.shards import write_shard

SHAPES = {
    "conv1.weight": (8, 1, 5, 5),
    "conv1.bias": (8,),
    "conv2.weight": (6, 8, 5, 5),
    "conv2.bias": (6,),
    "conv3.weight": (4, 6, 2, 2),
    "conv3.bias": (4,),
    "fc1.weight": (20, 36),
    "fc1.bias": (20,),
    "fc2.weight": (10, 20),
    "fc2.bias": (10,),
}
SPEC, SHARD, LAYERS = "zoo_cnn_s?act=tanh", 1024, ("conv3.weight", "fc1.weight", "conv2.weight")


def write(root: Path, models: int) -> None:
    """A zoo of that many models at one epoch, and the same models as files of their own."""
    folder = Folder(root / "zoo")
    network = {"spec": SPEC, "shape": [1, 28, 28], "classes": 10}
    folder.prepare({"kind": "models", "networks": [network]})
    rng = np.random.default_rng(0)
    (root / "apart").mkdir()
    for number, first in enumerate(range(0, models, SHARD)):
        n, stack = min(SHARD, models - first), f"{number:04d}"
        tensors = {k: rng.normal(0, 0.1, (n, *s)).astype("f4") for k, s in SHAPES.items()}
        about = {"stack": stack, "epoch": 50, "first": first, "model": SPEC}
        write_shard(folder.shard(stack, 50), tensors, about)
        write_rows(
            folder.root,
            stack,
            50,
            {
                "model": range(first, first + n),
                "act": "tanh",
                "lr": 3e-4,
                "seed": range(first, first + n),
                "test_accuracy": rng.uniform(size=n),
            },
        )
        for i in range(n):
            one = {k: np.ascontiguousarray(x[i]) for k, x in tensors.items()}
            save_file(one, root / "apart" / f"{first + i:05d}.safetensors")
    rebuild(folder.root)


def median_us(call: Callable[[], object], rounds: int, each: int = 1) -> float:
    """Microseconds of the thread a call, the median of the rounds."""
    took = []
    for _ in range(rounds):
        start = time.thread_time()
        for _ in range(each):
            call()
        took.append((time.thread_time() - start) / each * 1e6)
    return statistics.median(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write(root, args.models)
        run(root, args.models, args.rounds)


def run(root: Path, models: int, rounds: int) -> None:
    draw = random.Random(0)
    zoo = thrifty.Zoo(root / "zoo")
    start = time.perf_counter()
    joined = join(zoo, root / "joined")
    joining = time.perf_counter() - start
    handles = [
        safe_open(path, "numpy") for path in sorted((root / "zoo" / "shards").glob("*.safetensors"))
    ]

    def apart(number: int) -> dict[str, np.ndarray]:
        return load_file(root / "apart" / f"{number:05d}.safetensors")

    def sliced(number: int) -> dict[str, np.ndarray]:
        handle = handles[number // SHARD]
        return {name: handle.get_slice(name)[number % SHARD] for name in SHAPES}

    for number in (0, models // 2, models - 1):
        ours, alone, by_library = zoo[number].tensors(), apart(number), sliced(number)
        for tensor in SHAPES:
            assert np.array_equal(ours[tensor], alone[tensor])
            assert np.array_equal(ours[tensor], by_library[tensor])
    for layer in LAYERS:
        library = np.concatenate([h.get_tensor(layer) for h in handles])
        assert np.array_equal(zoo.weights(layer), library)
        assert np.array_equal(joined.weights(layer), library)
        assert sum(len(piece) for piece in zoo.pieces(layer)) == models

    print(f"{models:,} models in {len(handles)} shards; {thrifty.__name__} {thrifty.__version__}")
    print(f"joined in {joining:.2f} s of the clock")
    opening = median_us(lambda: thrifty.Zoo(root / "zoo"), 5)
    print(f"open the zoo (index.parquet): {opening / 1e3:.1f} ms")
    (root / "zoo" / "index.parquet").unlink()
    opening = median_us(lambda: thrifty.Zoo(root / "zoo"), 5)
    print(f"open the zoo (rows/ alone):   {opening / 1e3:.1f} ms")
    print("\none model at random, us:")
    readers = {
        "thrifty.Zoo": lambda number: zoo[number].tensors(),
        "thrifty.Zoo, joined": lambda number: joined[number].tensors(),
        "shards, safetensors library": sliced,
        "a file a model": apart,
    }
    for name, read in readers.items():
        took = median_us(lambda read=read: read(draw.randrange(models)), rounds, 500)
        print(f"  {name:28}{took:8.1f}")
    print("\none layer of all models, ms (MB):")
    for layer in LAYERS:
        size = zoo.weights(layer).nbytes / 1e6
        whole = median_us(lambda layer=layer: zoo.weights(layer), rounds) / 1e3
        one = median_us(lambda layer=layer: joined.weights(layer), rounds) / 1e3
        views = median_us(lambda layer=layer: list(zoo.pieces(layer)), rounds) / 1e3
        library = (
            median_us(
                lambda layer=layer: np.concatenate([h.get_tensor(layer) for h in handles]), rounds
            )
            / 1e3
        )
        print(
            f"  {layer:14} ({size:5.1f})  weights {whole:7.3f}   joined {one:7.3f}   "
            f"pieces {views:7.3f}   safetensors library {library:7.3f}"
        )


if __name__ == "__main__":
    main()

"""The bytes of a `.thrifty` file against the order-0 bound, and how fast it is read.

Question: how near to the bound (positions, signs, entropy of exponents, fractions) is a lossless
          file from 50 to 98 % sparsity, what does zstd of the dense tensors take, and how many
          GB of dense tensors does a core unpack in a second?
Run:      python benchmarks/files.py [--weights FILE ...]
Last:     at most 1.1 % over the bound, 1.6 to 17 GB/s a core, 4,000,000 drawn weights, other jobs
          on both cores, 2026-11-21 (README.md)

Weights are either drawn from a normal distribution of deviation 0.03, or those of a file, and cut
by magnitude over the whole network.  Every file is read back and compared bit for bit before it
is timed.  Reading is `Reader.read` of every tensor from the page cache, with checksum, zstd and
allocation of the dense tensor; seconds of the thread, the fastest of the rounds and their median.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import zstandard
from numpy.typing import NDArray
from timing import conditions, interleaved, quartiles

from thrifty import native
from thrifty.container import Reader, write
from thrifty.container.bound import bound_bits
from thrifty.container.encoding import unsigned
from thrifty.nets import read_weights

SPARSITIES = [0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98]
Tensors = Mapping[str, NDArray[np.float32]]


def drawn(count: int) -> Tensors:
    rng = np.random.default_rng(0)
    return {"weight": (rng.standard_normal(count) * 0.03).astype(np.float32)}


def weights_of(path: Path) -> Tensors:
    tensors, _ = read_weights(path)
    return {n: x.float().numpy() for n, x in tensors.items() if x.is_floating_point()}


def cut(tensors: Tensors, sparsity: float) -> Tensors:
    """Weights of two and more axes (or all that there is) cut by one threshold."""
    chosen = [n for n, x in tensors.items() if x.ndim > 1] or list(tensors)
    if not sparsity:
        return tensors
    magnitudes = np.concatenate([np.abs(tensors[n]).reshape(-1) for n in chosen])
    threshold = np.partition(magnitudes, int(sparsity * magnitudes.size))[
        int(sparsity * magnitudes.size)
    ]
    kept = dict(tensors)
    for name in chosen:
        kept[name] = np.where(np.abs(tensors[name]) < threshold, np.float32(0), tensors[name])
    return kept


def bound_of(tensors: Tensors) -> float:
    """Bytes."""
    total = 0.0
    for x in tensors.values():
        bits = unsigned(x)
        total += bound_bits(bits[bits != 0], "F32", x.size)
    return total / 8


def checked(path: Path, tensors: Tensors) -> None:
    with Reader(path) as file:
        for name, x in tensors.items():
            assert file.read(name).tobytes() == x.tobytes(), name


def read_all(path: Path) -> None:
    with Reader(path) as file:
        for name in file.tensors:
            file.read(name)


def row(tensors: Tensors, sparsity: float, rounds: int, level: int) -> str:
    kept = cut(tensors, sparsity)
    dense = sum(x.nbytes for x in kept.values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.thrifty"
        report = write(path, kept, {})
        checked(path, kept)
        numpy_too = len(native.available()) > 1
        times = interleaved({"read": lambda: read_all(path)}, rounds)["read"].cpu
        slow = [0.0]
        if numpy_too:
            with native.use("numpy"):
                slow = interleaved({"read": lambda: read_all(path)}, 2)["read"].cpu
    zstd = sum(
        len(zstandard.ZstdCompressor(level=level).compress(x.tobytes())) for x in kept.values()
    )
    bound = bound_of(kept)
    kinds = [e.encoding for e in report.tensors if e.count > 1000]
    most = max(set(kinds), key=kinds.count) if kinds else "-"
    _, middle, _ = quartiles(times)
    return (
        f"{sparsity:7.0%}  {dense:12,} {zstd:12,} {report.nbytes:12,} {bound:14,.0f} "
        f"{report.nbytes / bound - 1:+7.2%} {report.header_bytes:7,} {most:>8} "
        f"{dense / min(times) / 1e9:7.2f} {dense / middle / 1e9:7.2f} "
        f"{dense / min(slow) / 1e9 if slow[0] else 0:7.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="weight files")
    parser.add_argument("--count", type=int, default=4_000_000, help="weights that are drawn")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--level", type=int, default=9, help="of zstd of the dense tensors")
    args = parser.parse_args()
    print(conditions())
    print(f"target {native.target()}; best and median of {args.rounds}; zstd level {args.level}")
    for name, tensors in [
        (f"{args.count:,} drawn weights", drawn(args.count)),
        *((p.name, weights_of(p)) for p in args.weights),
    ]:
        print(f"\n{name}")
        print(
            "sparsity         dense         zstd     .thrifty  order-0 bound   over  header "
            "     most    best  median   numpy (GB/s)"
        )
        for sparsity in SPARSITIES:
            print(row(tensors, sparsity, args.rounds, args.level), flush=True)


if __name__ == "__main__":
    main()

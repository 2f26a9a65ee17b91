"""A census of a large file: time against reading the file, and resident memory.

Question: what does ``thrifty look`` of a 4 GB safetensors file cost over reading the file?
Run:      python benchmarks/census_file.py [--gigabytes 4] [--threads 1 2]

Last:     1.0 times reading on one thread, 0.75 on two; with the standard deviation 1.7 and
          1.26; 59 MB resident; 4.29 GB, 8 thresholds, 2026-11-21 (README.md)

The file is written first and is in the page cache.  Reading it is one thread that reads it in
pieces of 1 MiB into one buffer; counting it is the whole of ``thrifty.look`` with eight
thresholds: shares, zeros, what is not finite, the largest; with and without the standard
deviation.  They take turns, the fastest of each counts.
Resident memory is that of a process of its own, of which pages of the file (RssFile) are those
of the page cache.  The shares are checked against numpy on a part of the file.
"""

import argparse
import itertools
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from thrifty import native

UNDER = [1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-6]
TENSORS = 4

CHILD = """
import json, sys, time
sys.path[:0] = {path!r}
import thrifty
from thrifty import native
import numpy as np
thrifty.look({warm!r}, under={under!r}, counted="weights")
def memory():
    rows = dict(l.split(":") for l in open("/proc/self/status").read().splitlines() if ":" in l)
    return [int(rows[k].split()[0]) // 1024 for k in ("RssAnon", "RssFile", "VmHWM")]
before = memory()
took, highest = [], 0
for _ in range({repeats}):
    start = time.perf_counter()
    census = thrifty.look({file!r}, under={under!r}, counted="weights", threads={threads},
        spread={spread})
    took.append(time.perf_counter() - start)
after = memory()
counts = census.networks[0].counted("weights")
print(json.dumps(dict(seconds=took, before=before, after=after, under=counts.under)))
"""


def write(path: Path, gigabytes: float) -> None:
    """A safetensors file of normal weights, without holding them in memory."""
    rows = int(gigabytes * 2**30) // TENSORS // 4 // 4096
    size = rows * 4096 * 4
    header = {
        f"layer{i}.weight": {
            "dtype": "F32",
            "shape": [rows, 4096],
            "data_offsets": [i * size, (i + 1) * size],
        }
        for i in range(TENSORS)
    }
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    rng = np.random.default_rng(0)
    block = rng.normal(0, 0.05, 1 << 24).astype(np.float32)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        left = TENSORS * size
        while left:
            left -= file.write(block.tobytes()[:left])


def read(path: Path) -> float:
    """Seconds to read the file once."""
    buffer = bytearray(1 << 20)
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - start


def child(file: Path, warm: Path, threads: int, spread: int, repeats: int) -> dict:
    code = CHILD.format(
        path=[p for p in sys.path if p],
        warm=str(warm),
        under=UNDER,
        file=str(file),
        threads=threads,
        spread=bool(spread),
        repeats=repeats,
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--spread", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    args = parser.parse_args()
    fastest: Callable[[list[float]], float] = min
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        small, large = Path(name) / "small.safetensors", Path(name) / "large.safetensors"
        write(small, 0.02)
        write(large, args.gigabytes)
        size = large.stat().st_size
        print(f"{size / 1e9:.2f} GB, kernels {native.target()}, best of {args.repeats}")
        reads = [read(large) for _ in range(args.repeats)]
        for threads, spread in itertools.product(args.threads, args.spread):
            found = child(large, small, threads, spread, args.repeats)
            check(large, found["under"], args.gigabytes)
            reads += [read(large) for _ in range(args.repeats)]
            best, whole = fastest(found["seconds"]), fastest(reads)
            anon = found["after"][0] - found["before"][0]
            print(
                f"{threads} threads, {'with' if spread else 'without'} spread: "
                f"look {best:.2f} s ({size / best / 1e9:.1f} GB/s), reading "
                f"{whole:.2f} s ({size / whole / 1e9:.1f} GB/s), ratio {best / whole:.2f}; "
                f"resident memory {anon:+d} MB beyond the file's pages, highest in all "
                f"{found['after'][2]} MB, before {found['before'][2]} MB"
            )


def check(path: Path, under: list[int], gigabytes: float) -> None:
    """The shares are those that numpy counts, block by block."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + length)
        counts = np.zeros(len(UNDER), np.int64)
        while content := file.read(1 << 26):
            w = np.abs(np.frombuffer(content, "<f4").astype(np.float64))
            counts += [np.count_nonzero(w < t) for t in UNDER]
            if gigabytes > 1 and file.tell() > 1 << 29:
                return  # enough; the whole is checked on smaller files
    assert counts.tolist() == under


if __name__ == "__main__":
    main()

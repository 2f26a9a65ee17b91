"""Mutated weight files, against every reader: an error told to the user or a right answer.

Run:  python tests/sources/fuzz.py --count 100000 --format safetensors
      python tests/sources/fuzz.py --count 10000            (every format there is a sample of)

Each case is decided by its number, so that ``--first 4711 --count 1`` runs one again.  The process
may take 1 GB of address space more than it has after the first file; what takes longer than a
second is reported.  The file of the case that runs is left behind if the process dies.
"""

import argparse
import functools
import io
import json
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from thrifty.errors import UserError
from thrifty.sources import BITS
from thrifty.sources.opening import opened, suffixes

SLOW = 1.0
ROOM = 1 << 30
INTERESTING = [0, 1, 2, 7, 8, 9, 63, 64, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 1 << 20]
INTERESTING += [(1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 53) + 1, (1 << 63) - 1]
INTERESTING += [1 << 63, (1 << 64) - 1]
VALUES = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3.0,
    -0.0,
    1e400,
    1 << 63,
    1 << 64,
    10**30,
    "",
    "F32",
    "F4",
]
VALUES += ["BF16", "C64", "\ud800", "a" * 300, [], [0], [1, 2], [[]], {}, {"a": 1}, {"F32": None}]
NAMES = [
    "a",
    "b",
    "__metadata__",
    "",
    "\x00",
    "dtype",
    "shape",
    "data_offsets",
    "a_scale",
    "\u00e9",
]


@dataclass
class Outcome:
    """What came of the cases of one format."""

    right: int = 0
    refused: int = 0
    slowest: float = 0.0
    slow: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def safetensors_sample() -> bytes:
    from safetensors.numpy import save

    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a_scale": np.float32([2, 3]),
        "b": np.arange(5, dtype=np.int8),
        "b_scale": np.array(0.5),
        "empty": np.empty((0, 3), np.float16),
        "flags": np.array([True, False]),
    }
    return save(arrays, {"by": "fuzz"})


def npz_sample(save: Callable[..., None] = np.savez) -> bytes:
    file = io.BytesIO()
    save(file, a=np.arange(6.0).reshape(2, 3), b=np.asfortranarray(np.ones((3, 2), ">f4")), c=["x"])
    return file.getvalue()


def npy_sample() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(12, dtype=np.int16).reshape(3, 4))
    return file.getvalue()


def pickle_sample(zipped: bool = True) -> bytes:
    import torch

    file, w = io.BytesIO(), torch.arange(12.0).reshape(3, 4)
    state = {"w": w, "v": w.t()[:2], "h": w.bfloat16(), "n": torch.tensor(3)}
    torch.save({"state_dict": state, "epoch": 3}, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def packed(suffix: str) -> bytes:
    import lzma

    import zstandard

    content = safetensors_sample()
    return lzma.compress(content) if suffix == ".xz" else zstandard.compress(content)


def index_sample() -> bytes:
    names = ("a", "a_scale", "b", "b_scale", "empty", "flags")
    shards = dict.fromkeys(names, "part.safetensors")
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": shards}).encode()


def h5_sample() -> bytes:
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        h5.attrs["layer_names"] = [b"conv"]
        group = h5.create_group("conv")
        group.attrs["weight_names"] = [b"conv/kernel:0", b"conv/bias:0"]
        group["conv/kernel:0"] = np.ones((3, 3, 2, 4), np.float32)
        group.create_dataset("conv/bias:0", data=np.zeros(4, np.float32), compression="gzip")
    return file.getvalue()


def onnx_sample() -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = [numpy_helper.from_array(np.ones((2, 3), np.float32), "w")]
    weights.append(helper.make_tensor("h", TensorProto.FLOAT16, [2], [1.0, 2.0]))
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph([node], "g", [value], [out], weights)
    return bytes(helper.make_model(graph).SerializeToString()) if onnx else b""


SAMPLES: dict[str, tuple[Callable[[], bytes], ...]] = {
    ".safetensors": (safetensors_sample,),
    ".safetensors.xz": (lambda: packed(".xz"),),
    ".safetensors.zst": (lambda: packed(".zst"),),
    ".safetensors.index.json": (index_sample,),
    ".npz": (npz_sample, lambda: npz_sample(np.savez_compressed)),
    ".npy": (npy_sample,),
    ".pt": (pickle_sample, lambda: pickle_sample(False)),
    ".h5": (h5_sample,),
    ".onnx": (onnx_sample,),
}
"""Small valid files by suffix; one that needs a package that is not installed is passed over."""


@functools.cache  # old pickles hold addresses, so that two are seldom of one length
def samples_of(suffix: str) -> list[bytes]:
    """The samples of a suffix, none if a package is missing."""
    try:
        return [make() for make in SAMPLES.get(suffix, ())]
    except ImportError:
        return []


def formats() -> list[str]:
    """Suffixes that a reader is there for and that have samples."""
    return [s for s in suffixes() if samples_of(s)]


def mutated(content: bytes, rng: random.Random, suffix: str) -> bytes:
    """``content`` with one to four changes."""
    if suffix == ".safetensors" and rng.random() < 0.6:
        content = changed_header(content, rng)
        if rng.random() < 0.7:
            return content
    elif suffix.endswith(".json") and rng.random() < 0.7:
        return json.dumps(changed_value(json.loads(content), rng)).encode()
    for _ in range(rng.choice([1, 1, 1, 2, 3, 4])):
        content = changed_bytes(content, rng)
    return content


def changed_bytes(content: bytes, rng: random.Random) -> bytes:
    data, at = bytearray(content), rng.randrange(len(content) + 1)
    kind = rng.randrange(8)
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        data[at : at + 1] = bytes([rng.randrange(256)])
    elif kind == 2 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 3:
        data[at:at] = rng.randbytes(rng.choice([1, 2, 4, 8, 100]))
    elif kind == 4:
        del data[at : at + rng.choice([1, 2, 4, 8, 100])]
    elif kind == 5:
        size, form = rng.choice([(1, "<B"), (2, "<H"), (4, "<I"), (8, "<Q"), (4, ">I")])
        value = rng.choice(INTERESTING) % (1 << (8 * size))
        data[at : at + size] = struct.pack(form, value)
    elif kind == 6:
        other = rng.randrange(len(content) + 1)
        data[at : at + 16] = data[other : other + 16]
    else:
        data += rng.randbytes(rng.choice([1, 8, 1000])) if rng.random() < 0.5 else content
    return bytes(data)


def changed_header(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose JSON says something else, with the right length before it."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    for _ in range(rng.choice([1, 1, 2])):
        header = changed_value(header, rng)
    text = json.dumps(header, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        text = text.replace(b"}", b',"a":1}', 1) + b" " * rng.randrange(9)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def changed_value(value: object, rng: random.Random) -> object:
    """A JSON value with one change somewhere in it."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        items = list(value.items())
        at = rng.randrange(len(items))
        kind = rng.randrange(8)
        if kind == 0:
            del items[at]
        elif kind == 1:
            items[at] = (rng.choice(NAMES), items[at][1])
        elif kind == 2:
            items.insert(at, (rng.choice(NAMES), rng.choice([rng.choice(VALUES), items[at][1]])))
        elif kind == 3:
            rng.shuffle(items)
        else:
            items[at] = (items[at][0], changed_value(items[at][1], rng))
        return dict(items)
    if isinstance(value, list) and value and rng.random() < 0.8:
        result = list(value)
        at = rng.randrange(len(result))
        if isinstance(result[at], int) and rng.random() < 0.7:
            result[at] = rng.choice([result[at] + 1, result[at] - 1, 0, *INTERESTING])
        elif rng.random() < 0.3:
            result.insert(at, rng.choice([0, 1, 2]))
        else:
            result[at] = rng.choice(VALUES)
        return result
    return rng.choice(VALUES)


def tried(path: Path, content: bytes, suffix: str) -> str:
    """``right`` or ``refused``; anything else is raised."""
    path.write_bytes(content)
    try:
        found = {}
        for source in opened(path):
            for x in source.tensors:  # type: ignore[union-attr]
                pieces = [np.array(piece) for piece in x.read()]
                flat = np.concatenate(pieces) if pieces else np.empty(0, BITS[x.dtype])
                assert flat.dtype == BITS[x.dtype] and flat.size == x.count, x.name
                found[x.name] = (x, flat)
    except UserError as error:
        assert path.name.split(".")[0] in str(error), f"the error names no file: {error}"
        return "refused"
    if suffix == ".safetensors":
        check_against_library(content, found)
    return "right"


def check_against_library(content: bytes, found: dict) -> None:
    """What we read, the library reads, and to the same bytes."""
    import safetensors

    theirs = dict(safetensors.deserialize(content))
    assert theirs.keys() == found.keys()
    for name, (x, flat) in found.items():
        assert theirs[name]["dtype"] == x.dtype and tuple(theirs[name]["shape"]) == x.shape
        raw = bytes(theirs[name]["data"])
        if x.dtype == "BOOL":
            assert np.array_equal(np.frombuffer(raw, np.uint8) != 0, flat)
        else:
            assert raw == flat.tobytes()


def run(suffix: str, count: int, first: int = 0, folder: Path | None = None) -> Outcome:
    """Cases ``first`` to ``first + count`` of the files that end in ``suffix``."""
    with tempfile.TemporaryDirectory() as own:
        place = folder or Path(own)
        (place / "part.safetensors").write_bytes(safetensors_sample())
        path, outcome = place / f"case{suffix}", Outcome()
        samples = samples_of(suffix)
        for sample in samples:
            assert tried(path, sample, suffix) == "right", f"a sample of {suffix} is not read"
        for number in range(first, first + count):
            one(path, suffix, samples[number % len(samples)], number, outcome)
    return outcome


def one(path: Path, suffix: str, sample: bytes, number: int, outcome: Outcome) -> None:
    """In place: the outcome of one case."""
    content = mutated(sample, random.Random(f"{suffix} {number}"), suffix)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if tried(path, content, suffix) == "right":
                outcome.right += 1
            else:
                outcome.refused += 1
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        trace = "".join(traceback.format_exception(error)[-3:])
        outcome.failed.append(f"{suffix} {number}: {type(error).__name__}: {error}\n{trace}")
    took = time.perf_counter() - start
    outcome.slowest = max(outcome.slowest, took)
    if took > SLOW:
        outcome.slow.append(f"{suffix} {number}: {took:.1f} s")


def limit_memory() -> None:
    """In place: no more address space than there is in use now and ROOM."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))


def main() -> int:
    """Run what is asked for and tell what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--format", help="such as safetensors, npz, pt; all if not given")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    wanted = [f".{args.format.lstrip('.')}"] if args.format else formats()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        return all_of(wanted, args.count, args.first, Path(folder))


def all_of(wanted: list[str], count: int, first: int, folder: Path) -> int:
    """Print what came of every format; 1 if anything was wrong or slow."""
    failures = 0
    for suffix in wanted:
        if not samples_of(suffix):
            sys.exit(f"there is no sample of {suffix}; there is one of {', '.join(formats())}")
        run(suffix, 1, folder=folder)  # what is imported on first use is no leak of the case
    if sys.platform == "linux":
        limit_memory()
    for suffix in wanted:
        start = time.perf_counter()
        got = run(suffix, count, first, folder)
        took = time.perf_counter() - start
        print(
            f"{suffix}: {count:,} cases in {took:.0f} s: {got.right:,} right, "
            f"{got.refused:,} refused, {len(got.failed)} failed, slowest {got.slowest:.3f} s"
        )
        print("".join(f"  slow: {line}\n" for line in got.slow[:20]), end="")
        print("".join(f"  FAILED {line}\n" for line in got.failed[:20]), end="")
        failures += len(got.failed) + len(got.slow)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Mutated ``.thrifty`` files: an error told to the user, or one answer whichever way it is read.

Run:  python tests/container/fuzz.py --count 1000000
      python tests/container/fuzz.py --first 4711 --count 1      (one case again)

A quarter of the cases change bytes anywhere, and mostly end at a checksum.  The others change the
header, or the bytes of a section before or after it is compressed, and set right what depends on
it (checksums, and often sizes), so that the checks behind the checksums are met.  Every tensor of
a file that opens is read dense and sparse, compiled and in numpy, and all must agree.

The seeds are the files of ``corpus`` and the test vector.  The process may take 1 GB of address
space more than it has after the seeds; a case of more than a second is reported.
"""

import argparse
import functools
import importlib.util
import json
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import zstandard

from thrifty import native
from thrifty.container import Reader
from thrifty.container.header import canonical
from thrifty.container.sections import unpacked
from thrifty.container.writing import MAGIC, PREFIX
from thrifty.errors import UserError

HERE = Path(__file__).parent
SLOW, ROOM = 1.0, 1 << 30
TARGETS = sorted({native.available()[0], "numpy"})

spec = importlib.util.spec_from_file_location("fuzz", HERE.parent / "sources" / "fuzz.py")
sources = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = sources
spec.loader.exec_module(sources)


@dataclass
class Outcome:
    """What came of the cases."""

    right: int = 0
    refused: int = 0
    slowest: float = 0.0
    failed: list[str] = field(default_factory=list)
    rules: dict[str, int] = field(default_factory=dict)


@functools.cache
def seeds() -> list[bytes]:
    """Valid files to change."""
    return [p.read_bytes() for p in [HERE / "vector.thrifty", *sorted(HERE.glob("corpus/*"))]]


def split(content: bytes) -> tuple[dict, bytes]:
    """The header of a valid file, and the bytes of its tensors."""
    _, nbytes, raw, _ = PREFIX.unpack(content[: PREFIX.size])
    start = PREFIX.size + nbytes
    return json.loads(unpacked(content[PREFIX.size : start], raw)), content[start:]


def joined(header: object, data: bytes, rng: random.Random) -> bytes:
    """A file of that header, whose checksum is right."""
    try:
        text = canonical(header)
    except UnicodeEncodeError:
        text = json.dumps(header).encode()
    content = text if rng.random() < 0.5 else zstandard.compress(text)
    if len(content) > len(text):
        content = text
    return PREFIX.pack(MAGIC, len(content), len(text), zlib.crc32(content)) + content + data


def mutated(content: bytes, rng: random.Random) -> bytes:
    """``content`` with a change that may be deep inside."""
    kind = rng.random()
    if kind < 0.25:
        for _ in range(rng.choice([1, 1, 2, 4])):
            content = sources.changed_bytes(content, rng)
        return content
    header, data = split(content)
    if kind < 0.55:
        for _ in range(rng.choice([1, 1, 2])):
            header = sources.changed_value(header, rng)
        return joined(header, data, rng)
    return joined(header, changed_tensor(header, data, rng), rng)


def changed_tensor(header: dict, data: bytes, rng: random.Random) -> bytes:
    """In place: the header, for one tensor of which sections are changed; gives the new data."""
    tensors = sorted(header["tensors"].values(), key=lambda t: t["offset"])
    chosen = rng.randrange(len(tensors) or 1)
    parts = []
    for number, tensor in enumerate(tensors):
        at, contents = tensor["offset"], []
        for nbytes, raw in tensor["sections"]:
            contents.append((data[at : at + nbytes], raw))
            at += nbytes
        if number == chosen and contents:
            which = rng.randrange(len(contents))
            contents[which] = changed_section(*contents[which], rng)
            tensor["sections"] = [[len(c), raw] for c, raw in contents]
            if rng.random() < 0.3:
                key = rng.choice(["nnz", "shape", "encoding", "values", "dtype"])
                tensor[key] = other(tensor[key], rng)
        whole = b"".join(c for c, _ in contents)
        tensor["crc32"] = zlib.crc32(whole)
        tensor["offset"] = sum(map(len, parts))
        parts.append(whole)
    return b"".join(parts)


def changed_section(content: bytes, raw: int, rng: random.Random) -> tuple[bytes, int]:
    """Other bytes of a section, compressed or not, and what they are said to unpack to."""
    if rng.random() < 0.3:
        changed = sources.changed_bytes(content, rng)
        return (changed, raw) if rng.random() < 0.7 else (changed, max(raw, len(changed)))
    try:
        plain = unpacked(content, raw)
    except UserError:
        return content, raw
    if rng.random() < 0.6 and plain:
        data = bytearray(plain)
        for _ in range(rng.choice([1, 1, 3])):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 254, 255, rng.randrange(256)])
        plain = bytes(data)
    else:
        plain = sources.changed_bytes(plain, rng)
    packed = zstandard.compress(plain)
    if rng.random() < 0.1:
        return packed, rng.choice([raw, *sources.INTERESTING])
    return (packed, len(plain)) if len(packed) < len(plain) else (plain, len(plain))


def other(value: object, rng: random.Random) -> object:
    """Something else that could stand there."""
    if isinstance(value, str):
        return rng.choice(["raw", "bitmask", "gap8", "F32", "BF16", "F16", "I8", "BOOL", "F64"])
    if isinstance(value, list):
        return [max(0, n + rng.choice([-1, 0, 0, 1])) for n in value] or [rng.randrange(3)]
    return max(0, value + rng.choice([-1, 1, 8]))


def tried(path: Path, content: bytes) -> str:
    """``right`` or the rule that was broken; anything else is raised."""
    path.write_bytes(content)
    told = []
    try:
        with Reader(path) as file:
            for name, entry in file.tensors.items():
                told.append(read(file, name, entry, path))
    except UserError as error:
        assert str(path) in str(error), f"the error names no file: {error}"
        return str(error).removeprefix(str(path))[:200]
    return next(filter(None, told), "right")


def read(file: Reader, name: str, entry, path: Path) -> str:
    """The rule that a tensor breaks, if it breaks one in every way of reading it."""
    found, errors = [], []
    for target in TARGETS:
        with native.use(target):
            for way in (dense, sparse):
                try:
                    found.append(way(file, name, entry))
                except UserError as error:
                    assert ascii(name)[:50] in str(error), f"the error names no tensor: {error}"
                    errors.append(str(error).removeprefix(str(path)))
    assert not (found and errors), f"{name}: read in one way and refused in another: {errors}"
    assert len(set(found)) <= 1, f"{name}: read in two ways and not equal"
    assert len(set(errors)) <= 1, f"{name}: refused for other reasons: {errors}"
    return errors[0][:200] if errors else ""


def dense(file: Reader, name: str, entry) -> bytes:
    array = file.read(name)
    assert array.shape == entry.shape and array.nbytes == entry.dense_bytes
    return array.tobytes()


def sparse(file: Reader, name: str, entry) -> bytes:
    places, values = file.sparse(name)
    assert places.size == values.size == entry.nnz
    assert not places.size or (np.diff(places) > 0).all() and places[-1] < entry.count
    array = np.zeros(entry.count, values.dtype)
    array[places] = values
    return array.tobytes()


def run(count: int, first: int = 0, folder: Path | None = None) -> Outcome:
    """Cases ``first`` to ``first + count``."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as own:
        path, outcome = (folder or Path(own)) / "case.thrifty", Outcome()
        for seed in seeds():
            assert tried(path, seed) == "right", "a seed is not read"
        for number in range(first, first + count):
            one(path, number, outcome)
    return outcome


def one(path: Path, number: int, outcome: Outcome) -> None:
    """In place: the outcome of one case."""
    rng = random.Random(f"thrifty {number}")
    content = mutated(rng.choice(seeds()), rng)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            told = tried(path, content)
    except Exception as error:
        trace = "".join(traceback.format_exception(error)[-3:])
        outcome.failed.append(f"{number}: {type(error).__name__}: {error}\n{trace}")
        return
    outcome.right += told == "right"
    outcome.refused += told != "right"
    rule = "".join("#" if c.isdigit() else c for c in told.partition("': ")[2] or told)[:40]
    outcome.rules[rule] = outcome.rules.get(rule, 0) + 1
    took = time.perf_counter() - start
    outcome.slowest = max(outcome.slowest, took)
    if took > SLOW:
        outcome.failed.append(f"{number}: it took {took:.1f} s")


def limit_memory() -> None:
    """In place: no more address space than there is in use now and ROOM."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))


def main() -> int:
    """Run what is asked for and tell what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    run(1)
    if sys.platform == "linux":
        limit_memory()
    start = time.perf_counter()
    got = run(args.count, args.first)
    took = time.perf_counter() - start
    print(
        f"{args.count:,} cases in {took:.0f} s: {got.right:,} right, {got.refused:,} refused, "
        f"{len(got.failed)} failed, slowest {got.slowest:.3f} s"
    )
    for rule, times in sorted(got.rules.items(), key=lambda pair: -pair[1])[:60]:
        print(f"{times:9,}  {rule}")
    print("".join(f"  FAILED {line}\n" for line in got.failed[:20]), end="")
    return 1 if got.failed else 0


if __name__ == "__main__":
    sys.exit(main())

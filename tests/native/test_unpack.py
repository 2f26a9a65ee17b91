"""Unpacking is its definition on every target, and under the sanitizers on arbitrary bytes."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thrifty import native
from thrifty.errors import UserError
from thrifty.native import unpack

SOURCES = Path(__file__).parent.parent.parent / "native"
COMPILER = next(filter(None, map(shutil.which, [os.environ.get("CXX", "c++"), "g++"])), None)
OPTIONS = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-DTHRIFTY_FUZZ_MAIN"]
OPTIONS += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

TARGETS = sorted({native.available()[0], "numpy"})


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
def test_arbitrary_bytes_are_refused_or_unpacked_as_defined_and_no_sanitizer_objects(tmp_path):
    program = tmp_path / "fuzz_unpack"
    files = [str(SOURCES / f"{name}.cc") for name in ("fuzz_unpack", "unpack")]
    build = [str(COMPILER), *OPTIONS, *files, "-o", str(program)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([str(program), "30000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    assert done.stdout == "30000 inputs, all as defined\n"


def answer(function, *arguments):
    """What it gives, or the rule that is broken."""
    try:
        return function(*arguments).tolist()
    except UserError as error:
        return str(error)


@given(
    encoding=st.sampled_from([*unpack.ENCODINGS, "rle"]),
    positions=st.binary(max_size=40),
    values=st.binary(max_size=120),
    size=st.sampled_from([1, 2, 3, 4, 8]),
    count=st.integers(0, 600),
    rotated=st.booleans(),
)
def test_numpy_and_the_extension_give_and_refuse_the_same(
    encoding, positions, values, size, count, rotated
):
    where = np.frombuffer(positions, np.uint8)
    many = len(values) // size
    planes = [np.frombuffer(values, np.uint8)[b * many : (b + 1) * many] for b in range(size)]
    said = []
    for target in TARGETS:
        with native.use(target):
            said.append(answer(unpack.dense, encoding, where, planes, rotated, count))
            if encoding in unpack.ENCODINGS:
                said.append(answer(unpack.indices, encoding, where, count))
    half = len(said) // len(TARGETS)
    assert all(said[i] == said[i % half] for i in range(len(said)))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("encoding", "positions", "count", "rule"),
    [
        ("gap8", [3], 3, "beyond the shape"),
        ("gap8", [0, 255], 9000, "end in an escape"),
        ("gap8", [255, 255, 0], 510, "beyond the shape"),
        ("bitmask", [1, 0], 8, "one bit an element"),
        ("bitmask", [0b1000], 3, "bits beyond the shape"),
        ("raw", [1], 3, "raw has no positions"),
        ("bitmask", [3], 8, "more or fewer values"),
    ],
)
def test_positions_that_do_not_hold_are_refused(target, encoding, positions, count, rule):
    planes = [np.zeros(1, np.uint8)]
    with native.use(target), pytest.raises(UserError, match=rule):
        unpack.dense(encoding, np.uint8(positions), planes, False, count)

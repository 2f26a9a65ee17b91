"""The kernels under the address and undefined-behaviour sanitizers, against their definitions."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from thrifty import native

SOURCES = Path(__file__).parent.parent.parent / "native"
COMPILER = next(filter(None, map(shutil.which, [os.environ.get("CXX", "c++"), "g++"])), None)

OPTIONS = ["-std=c++17", "-Og", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
OPTIONS += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mpopcnt"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
TARGETS = {  # as in CMakeLists.txt: the table, the bytes of a vector, options
    "baseline": ("kBaseline", 16, []),
    "avx2": ("kAvx2", 32, AVX2),
    "avx512": ("kAvx512", 32, AVX512),
}


def compiled(folder: Path, commands: dict[str, list[str]]) -> list[str]:
    """Objects, made two at a time."""
    running: list[tuple[str, subprocess.Popen[str]]] = []
    objects = []
    for name, command in commands.items():
        objects.append(str(folder / f"{name}.o"))
        full = [str(COMPILER), *OPTIONS, *command, "-c", "-o", objects[-1]]
        running.append((name, subprocess.Popen(full, stderr=subprocess.PIPE, text=True)))
        if len(running) == 2 or name == list(commands)[-1]:
            for each, process in running:
                errors = process.communicate()[1]
                assert process.returncode == 0, f"{each}: {errors}"
            running.clear()
    return objects


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
def test_every_target_is_right_and_no_sanitizer_objects(tmp_path):
    x86 = os.uname().machine in ("x86_64", "AMD64")
    targets = TARGETS if x86 else {"baseline": TARGETS["baseline"]}
    commands = {
        name: [
            str(SOURCES / "census.cc"),
            f"-DTHRIFTY_TABLE={table}",
            f'-DTHRIFTY_NAME="{name}"',
            f"-DTHRIFTY_WIDTH={width}",
            *options,
        ]
        for name, (table, width, options) in targets.items()
    }
    for file in ("counts", "rank", "targets", "test_census"):
        commands[file] = [str(SOURCES / f"{file}.cc")]
    objects = compiled(tmp_path, commands)
    program = str(tmp_path / "test_census")
    link = [str(COMPILER), *OPTIONS, *objects, "-pthread", "-o", program]
    subprocess.run(link, check=True, capture_output=True)
    wanted = [t for t in native.available() if t in targets]
    done = subprocess.run([program, *wanted], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == (wanted or list(targets))

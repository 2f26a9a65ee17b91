"""The compiled engine under the sanitizers: random networks against plain loops, and wrong ones.

Fresh memory is NaN in these builds, so that a number which nobody wrote is seen in the answers.
Tiles are smaller than in CMakeLists.txt, for the kernels take the compiler most of the time.
"""

import os
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

import pytest

from thrifty import native

SOURCES = Path(__file__).parent.parent.parent / "native" / "engine"
COMPILER = next(filter(None, map(shutil.which, [os.environ.get("CXX", "c++"), "g++"])), None)
pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")

OPTIONS = ["-std=c++17", "-Og", "-ffp-contract=fast", "-fno-math-errno", "-DTHRIFTY_FRESH=255"]
OPTIONS += ["-DTHRIFTY_PART_CYCLES=1", "-DTHRIFTY_SHARE_ALL=true"]
OPTIONS += ["-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-Wno-maybe-uninitialized"]
OPTIONS += ["-Wno-unknown-warning-option"]
AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mpopcnt"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
TARGETS = {  # the table, vectors of a tile, options
    "baseline": ("kBaselineEngine", 2, []),
    "avx2": ("kAvx2Engine", 3, AVX2),
    "avx512": ("kAvx512Engine", 4, AVX512),
}
FILES = ["checks", "conv", "layout", "moves", "net", "plan", "planes", "pool", "rows", "targets"]
FILES += ["sharing", "test_engine"]


def built(folder: Path, sanitizer: str, targets: Collection[str] = tuple(TARGETS)) -> Path:
    """The program with some of the targets, all its sources compiled two at a time."""
    x86 = os.uname().machine in ("x86_64", "AMD64")
    commands = {file: [str(SOURCES / f"{file}.cc")] for file in FILES}
    for name, (table, tile, options) in TARGETS.items():
        if name in targets and (x86 or not options):
            macros = {"NAME": f'"{name}"', "TABLE": table, "ENGINE_TILE": tile, "ENGINE_SUMS": tile}
            said = [f"-DTHRIFTY_{key}={value}" for key, value in macros.items()]
            commands[name] = [str(SOURCES / "kernels.cc"), *said, *options]
    only = ["-DTHRIFTY_BASELINE_ONLY"] if set(targets) == {"baseline"} else []
    flags = [*OPTIONS, *only, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    waiting = [
        [str(COMPILER), *flags, *command, "-c", "-o", str(folder / f"{name}.o")]
        for name, command in commands.items()
    ]
    for pair in zip(waiting[::2], [*waiting[1::2], None], strict=False):
        running = [
            subprocess.Popen(each, stderr=subprocess.PIPE, text=True) for each in pair if each
        ]
        for process in running:
            errors = process.communicate()[1]
            assert process.returncode == 0, errors
    program = folder / "test_engine"
    objects = [str(folder / f"{name}.o") for name in commands]
    subprocess.run([str(COMPILER), *flags, *objects, "-pthread", "-o", str(program)], check=True)
    return program


def run(program: Path, *words: str) -> str:
    done = subprocess.run([program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    return done.stdout


def test_every_target_is_right_and_reads_and_writes_nothing_beyond(tmp_path):
    wanted = [name for name in native.available() if name in TARGETS] or ["baseline"]
    said = run(built(tmp_path, "address,undefined"), *wanted, "60")
    assert [line.split(":")[0] for line in said.splitlines()] == wanted


def test_threads_do_not_race(tmp_path):
    run(built(tmp_path, "thread", ["baseline"]), "baseline", "30")

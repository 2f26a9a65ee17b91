"""The lanes read and write nothing beyond their arrays, and their threads share nothing.

All targets are one source and differ in the width of a vector only; the narrowest is looked at.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "native" / "lanes"
COMPILER = next(filter(None, map(shutil.which, [os.environ.get("CXX", "c++"), "g++"])), None)
OPTIONS = ["-std=c++17", "-O0", "-ffp-contract=fast", "-fno-math-errno", "-pthread"]
OPTIONS += ["-DTHRIFTY_BASELINE_ONLY", "-DTHRIFTY_TABLE=kBaselineLanes", "-DTHRIFTY_LANES=4"]
OPTIONS += ['-DTHRIFTY_NAME="baseline"']


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
@pytest.mark.parametrize(("sanitizer", "many"), [("address,undefined", 60), ("thread", 12)])
def test_random_populations_run_clean(sanitizer, many, tmp_path):
    flags = [*OPTIONS, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    program = tmp_path / "test_lanes"
    files = [str(SOURCES / f"{name}.cc") for name in ("kernels", "network", "test_lanes")]
    made = subprocess.run(
        [str(COMPILER), *flags, *files, "-o", str(program)], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr[-3000:]
    found = subprocess.run(
        [str(program), str(many), "baseline"], capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stdout + found.stderr[-3000:]

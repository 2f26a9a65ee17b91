"""Which kernels count: chosen by the processor, the environment or a with block."""

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest

from thrifty import native
from thrifty.errors import UserError

COUNT = "native.tally(np.float32([0.5, 2]), 'F32', [1.0]).under"


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "THRIFTY_KERNELS"} | environment,
    )


def test_the_fastest_counts_unless_another_is_asked_for(monkeypatch):
    monkeypatch.delenv("THRIFTY_KERNELS", raising=False)
    assert native.target() == native.available()[0]
    assert native.available()[-1] == "numpy"
    assert [t for t in native.TARGETS if t in native.available()] == list(native.available())


def test_a_with_block_forces_a_target_and_gives_it_back():
    before = native.target()
    for target in native.available():
        with native.use(target):
            assert native.target() == target
            with native.use("numpy"):
                assert native.target() == "numpy"
            with native.use(None):
                assert native.target() == before
            assert native.target() == target
    assert native.target() == before


def test_an_unknown_target_is_an_error():
    with (
        pytest.raises(UserError, match="'sse9' is no target of the kernels; there is avx512"),
        native.use("sse9"),
    ):
        pass


@pytest.mark.parametrize("target", native.available())
def test_the_environment_chooses_for_a_process(target):
    done = python(
        f"import numpy as np\nfrom thrifty import native\nprint(native.target(), {COUNT})",
        THRIFTY_KERNELS=target,
    )
    assert done.stdout.split(maxsplit=1) == [target, "(1,)\n"], done.stderr


def test_a_wrong_name_in_the_environment_is_told():
    code = f"import numpy as np\nfrom thrifty import native\n{COUNT}"
    done = python(code, THRIFTY_KERNELS="fast")
    assert "UserError: THRIFTY_KERNELS=fast is no target of the kernels" in done.stderr


def test_numpy_counts_where_the_extension_is_missing():
    done = python(
        "sys.modules['thrifty.native._kernels'] = None\n"
        "import numpy as np\nfrom thrifty import native\n"
        f"print(native.available(), native.target(), {COUNT}, native.kth([np.float32([3])], 1))\n"
        "with native.use('avx2'): pass"
    )
    assert done.stdout == "('numpy',) numpy (1,) (3.0, 0)\n"
    assert "'avx2' is not available, the extension was not compiled; use numpy" in done.stderr


def test_the_kernels_need_neither_torch_nor_scipy():
    done = python("from thrifty import native\nprint('torch' in sys.modules)")
    assert done.stdout == "False\n"


@pytest.mark.skipif("baseline" not in native.available(), reason="no compiled kernels here")
def test_the_border_refuses_what_python_should_not_have_sent():
    kernels = importlib.import_module("thrifty.native._kernels")
    data = np.zeros(8, np.uint8)
    with pytest.raises(ValueError, match="no kernels for the target sse9"):
        kernels.below("sse9", "F32", data, [1], 1)
    with pytest.raises(ValueError, match="do not compare I64"):
        kernels.below("baseline", "I64", data, [1], 1)
    with pytest.raises(ValueError, match="over the infinity"):
        kernels.tally("baseline", "F16", data, [0x7C01], True, 1)
    with pytest.raises(ValueError, match="too many limits"):
        kernels.tally("baseline", "F32", data, [1] * 33, True, 1)
    with pytest.raises(ValueError, match="whole number of elements"):
        kernels.below("baseline", "F32", data[:7], [1], 1)
    with pytest.raises(ValueError, match="threads must be 1"):
        kernels.octaves("baseline", "F32", data, 0)
    with pytest.raises(ValueError, match="no value of that rank"):
        kernels.place("baseline", [data], 3, True, 1)
    with pytest.raises(TypeError):
        kernels.below("baseline", "F32", data.astype(np.float32), [1], 1)
    with pytest.raises(TypeError):
        kernels.below("baseline", "F32", data[::2], [1], 1)

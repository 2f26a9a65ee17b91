import collections
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from thrifty.errors import UserError
from thrifty.nets import read_weights
from thrifty.sources import PIECE
from thrifty.sources.opening import only

BOTH = pytest.mark.parametrize("zipped", [True, False])


def put(content, path, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def found(path):
    with only(path) as source:
        return {x.name: x.whole() for x in source.tensors}


def rezipped(path, change, method=zipfile.ZIP_STORED):
    """The zip file with each entry replaced by what ``change(name, content)`` gives."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content))
    return path


@BOTH
def test_tensors_come_back_as_they_are(tmp_path, zipped):
    w = torch.randn(5, 7, 3)
    state = {
        "w": w,
        "turned": torch.randn(4, 6).t(),
        "mixed": torch.randn(3, 4, 5).permute(2, 0, 1),
        "step": torch.arange(20)[::3],
        "scalar": torch.tensor(3),
        "none": torch.empty(0, 4),
        "flags": w[0] > 0,
        "half": w.half(),
        "repeated": torch.tensor([[1.0], [2.0]]).expand(2, 5),
    }
    got = found(put({"epoch": 3, "state_dict": state}, tmp_path / "w.pt", zipped))
    assert list(got) == list(state)
    for name, x in state.items():
        assert got[name].dtype == x.numpy().dtype and np.array_equal(got[name], x.numpy()), name


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        (torch.bfloat16, torch.uint16),
        (torch.float8_e4m3fn, torch.uint8),
        (torch.float8_e5m2, torch.uint8),
    ],
)
def test_floats_that_numpy_lacks_come_as_their_bits(tmp_path, dtype, bits):
    x = torch.randn(5, 3).to(dtype)
    got = found(put({"x": x, "t": x.t().clone().t()}, tmp_path / "w.pt"))
    assert np.array_equal(got["x"], x.view(bits).numpy()) and np.array_equal(got["t"], got["x"])


@pytest.mark.parametrize("turned", [False, True])
def test_large_tensors_come_in_pieces(tmp_path, turned):
    x = torch.arange(PIECE // 4 * 2 + 6, dtype=torch.float32).view(2, -1)
    x = x.t() if turned else x
    with only(put({"x": x}, tmp_path / "w.pt")) as source:
        for _ in range(2):
            pieces = list(source.tensors[0].read())
            assert len(pieces) == 3 and max(p.nbytes for p in pieces) <= PIECE
            assert np.array_equal(np.concatenate(pieces), x.reshape(-1).numpy())


@BOTH
def test_a_tensor_with_several_names_is_counted_once_and_told(tmp_path, zipped):
    w = torch.randn(3, 3)
    flat = torch.randn(8)
    state = {"embed": w, "head": w, "turned": w.t(), "one": flat[:4], "two": flat[4:]}
    with only(put(state, tmp_path / "w.pt", zipped)) as source:
        assert [x.name for x in source.tensors] == ["embed", "one", "two"]
        assert source.notes == (
            "head is embed, and counted once",
            "turned is embed, and counted once",
        )


@pytest.mark.filterwarnings("ignore:.*quantize")
@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8])
def test_quantised_tensors_say_what_they_stand_for(tmp_path, dtype):
    x = torch.randn(4, 3)
    one = torch.quantize_per_tensor(x, 0.1, 2, dtype)
    scales, zeros = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([1, 2, 3, 4])
    rows = torch.quantize_per_channel(x, scales, zeros, 0, dtype)
    with only(put({"one": one, "rows": rows}, tmp_path / "w.pt")) as source:
        for stored, q in zip(source.tensors, (one, rows), strict=True):
            how = stored.quantised
            shape = (-1, 1) if how.axis == 0 else ()
            numbers = (stored.whole() - how.zero.reshape(shape)) * how.scale.reshape(shape)
            assert np.allclose(numbers, q.dequantize().numpy())
    with pytest.raises(UserError, match="no ordinary tensor"):
        read_weights(tmp_path / "w.pt")


def test_complex_tensors_are_left_out_with_a_note(tmp_path):
    state = {"w": torch.ones(2), "c": torch.ones(2, dtype=torch.complex64)}
    with only(put(state, tmp_path / "w.pt")) as source:
        assert [x.name for x in source.tensors] == ["w"] and "complex64" in source.notes[0]
    del state["w"]
    with pytest.raises(UserError, match="no tensor of numbers"):
        only(put(state, tmp_path / "w.pt"))


def test_a_network_pruned_by_torch_gives_its_product(tmp_path):
    model = nn.Linear(300, 9)
    prune.random_unstructured(model, "weight", amount=0.5)
    with only(put(model.state_dict(), tmp_path / "w.pt")) as source:
        got = {x.name: x.whole() for x in source.tensors}
        assert got.keys() == {"weight", "bias"} and "1 pairs" in source.notes[0]
    assert np.array_equal(got["weight"], model.weight.detach().numpy())


def test_a_closed_source_says_so(tmp_path):
    source = only(put({"w": torch.ones(2)}, tmp_path / "w.pt"))
    source.close()
    with pytest.raises(UserError, match="closed"):
        source.tensors[0].whole()


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path):
    with only(put({"w": torch.ones(PIECE // 4 + 1)}, tmp_path / "w.pt")) as source:
        reading = source.tensors[0].read()
        next(reading)
        os.truncate(tmp_path / "w.pt", 4096)
        with pytest.raises(UserError, match="changed while it was read"):
            next(reading)


def test_a_torchscript_archive_is_told_as_such(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("net/constants.pkl", b"\x80\x02)q\x00.")
        archive.writestr("net/code/__torch__.py", "1")
    with pytest.raises(UserError, match=r"TorchScript.*torch\.jit\.load"):
        only(tmp_path / "w.pt")


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@BOTH
def test_code_is_refused_and_does_not_run(tmp_path, zipped):
    state = {"w": torch.ones(2), "more": Runs(tmp_path / "ran")}
    with pytest.raises(UserError, match="mkdir.*would execute code"):
        only(put(state, tmp_path / "w.pt", zipped))
    assert not (tmp_path / "ran").exists()


def test_compressed_entries_are_refused(tmp_path):
    path = put({"w": torch.zeros(1 << 20)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="compressed, which torch.save never does"):
        only(rezipped(path, lambda _, content: content, zipfile.ZIP_DEFLATED))


def test_a_tensor_may_not_go_on_into_the_next_ones_numbers(tmp_path):
    path = put({"a": torch.zeros(9), "b": torch.ones(9)}, tmp_path / "w.pt")

    def longer(name, content):
        return content.replace(b"K\x09", b"K\x0b") if name.endswith("data.pkl") else content

    with pytest.raises(UserError, match=r"w\.pt"):
        found(rezipped(path, longer))


def with_pickle(path, code):
    """A zip file of torch.save whose pickle is ``code``."""
    put({"w": torch.ones(2)}, path)
    return rezipped(path, lambda name, old: code if name.endswith("data.pkl") else old)


def test_a_buffer_of_any_size_is_not_made(tmp_path):
    code = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + struct.pack("<Q", 1 << 36)[:5] + b"\x85R."
    with pytest.raises(UserError, match="a buffer of any size"):
        only(with_pickle(tmp_path / "w.pt", code))


def test_texts_that_double_are_not_made(tmp_path):
    hexed = b"c_codecs\nencode\n"
    code = b"\x80\x02" + hexed * 60 + b"X\x01\0\0\0aX\x06\0\0\0latin1\x86R"
    code += b"X\x03\0\0\0hex\x86R" * 59 + b"."
    with pytest.raises(UserError, match="grow without end"):
        only(with_pickle(tmp_path / "w.pt", code))


@BOTH
def test_bytes_beside_tensors_are_no_harm(tmp_path, zipped):
    state = {"w": torch.ones(2)}
    more = {"state_dict": state, "who": b"us", "steps": collections.Counter([1, 1, 2])}
    assert list(found(put(more, tmp_path / "w.pt", zipped))) == ["w"]


def test_nesting_that_would_kill_python_is_refused(tmp_path):
    code = b"\x80\x02}N" + b"\x85" * 1_000_000 + b"Ns."
    with pytest.raises(UserError, match="nested more than"):
        only(with_pickle(tmp_path / "w.pt", code))
    code = b"\x80\x02}Nq\x01" + b"0h\x01\x85q\x01" * 1_000_000 + b"Ns."
    with pytest.raises(UserError, match="nested more than"):
        only(with_pickle(tmp_path / "w.pt", code))


def test_a_pickle_of_another_program_is_refused(tmp_path):
    (tmp_path / "w.pt").write_bytes(pickle.dumps({"w": [1.0]}, protocol=2))
    with pytest.raises(UserError, match=r"w\.pt"):
        only(tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes(b"sys_info\0" + bytes(1000))
    with pytest.raises(UserError, match="cannot be read as a PyTorch file"):
        only(tmp_path / "w.pt")


def test_a_tensor_without_numbers_in_the_file_is_refused(tmp_path):
    code = io.BytesIO()
    code.write(b"\x80\x02}X\x01\0\0\0wctorch\nFloatTensor\nJ")
    code.write(struct.pack("<i", 1 << 20) + b"\x85Rs.")
    with pytest.raises(UserError, match=r"w\.pt"):
        only(with_pickle(tmp_path / "w.pt", code.getvalue()))


MEMORY = """
import sys
import torch
from thrifty.sources.opening import only

def resident():
    with open("/proc/self/status") as file:
        said = dict(line.split(":", 1) for line in file)
    return sum(int(said[key].split()[0]) for key in ("RssAnon", "RssFile", "RssShmem")) >> 10

most = 0
with only(sys.argv[1]) as source:
    before = resident()
    for x in source.tensors:
        for piece in x.read():
            piece.sum()
            most = max(most, resident())
print(most - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told by /proc")
def test_a_large_file_is_not_loaded_at_once(tmp_path):
    state = {f"w{i}": torch.zeros(25 << 18) for i in range(16)}
    path = put(state, tmp_path / "w.pt")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True
    )
    assert path.stat().st_size > 400 << 20
    assert int(done.stdout) < 200

import gc
import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from thrifty.errors import UserError
from thrifty.pack import save
from thrifty.sources import PIECE, SOURCES
from thrifty.sources.opening import opened


def opening(path):
    return SOURCES.get("safetensors").open(str(path))


def test_arrays_come_back_bit_for_bit(tmp_path):
    arrays = {
        "w": np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32),
        "half": np.float16([1, -0.0, np.nan]),
        "n": np.array(7),
        "u": np.arange(5, dtype=np.uint64),
        "none": np.empty((0, 4), np.float64),
        "flags": np.array([True, False]),
    }
    save_file(arrays, tmp_path / "net.safetensors", {"by": "us"})
    with opening(tmp_path / "net.safetensors") as source:
        found = {x.name: x.whole() for x in source.tensors}
        assert (source.label, source.kind, source.claims) == ("net", "safetensors", {"by": "us"})
        assert source.nbytes == (tmp_path / "net.safetensors").stat().st_size
        assert found.keys() == arrays.keys()
        for name, a in arrays.items():
            assert found[name].shape == a.shape and found[name].dtype == a.dtype
            assert found[name].tobytes() == a.tobytes()


@pytest.mark.parametrize(
    ("dtype", "bits", "said"),
    [
        (torch.bfloat16, torch.uint16, "BF16"),
        (torch.float8_e4m3fn, torch.uint8, "F8_E4M3"),
        (torch.float8_e5m2, torch.uint8, "F8_E5M2"),
    ],
)
def test_floats_that_numpy_lacks_come_as_their_bits(tmp_path, dtype, bits, said):
    x = torch.randn(7, 3).to(dtype)
    save_torch({"x": x}, tmp_path / "w.safetensors")
    with opening(tmp_path / "w.safetensors") as source:
        (found,) = source.tensors
        assert found.dtype == said
        assert np.array_equal(found.whole(), x.view(bits).numpy())


def test_large_tensors_come_in_pieces_that_may_be_read_again(tmp_path):
    big = np.arange(PIECE // 4 * 2 + 5, dtype=np.float32)
    save_file({"a": np.ones(3, np.int8), "big": big}, tmp_path / "w.safetensors")
    with opening(tmp_path / "w.safetensors") as source:
        x = next(x for x in source.tensors if x.name == "big")
        for _ in range(2):
            pieces = list(x.read())
            assert [p.nbytes for p in pieces] == [PIECE, PIECE, 20]
            assert all(p.flags.aligned and not p.flags.writeable for p in pieces)
            assert np.array_equal(np.concatenate(pieces), big)


def test_elements_that_lie_askew_are_aligned_for_the_kernels(tmp_path):
    entries = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F64", "shape": [2], "data_offsets": [1, 17]},
    }
    text = json.dumps(entries).encode()
    data = b"\1" + np.float64([1.5, -2]).tobytes()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    with opening(tmp_path / "w.safetensors") as source:
        (piece,) = source.tensors[1].read()
        assert piece.flags.aligned and piece.tolist() == [1.5, -2]


def test_truth_values_may_be_any_byte(tmp_path):
    text = json.dumps({"a": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}).encode()
    content = struct.pack("<Q", len(text)) + text + b"\0\1\xff"
    (tmp_path / "w.safetensors").write_bytes(content)
    with opening(tmp_path / "w.safetensors") as source:
        assert source.tensors[0].whole().view(np.uint8).tolist() == [0, 1, 1]


def test_a_view_outlives_its_file_and_the_file_cannot_be_read_any_more(tmp_path):
    save_file({"a": np.arange(5.0)}, tmp_path / "w.safetensors")
    source = opening(tmp_path / "w.safetensors")
    reading = source.tensors[0].read()
    view = next(reading)
    source.close()
    source.close()
    del source
    gc.collect()
    assert view.sum() == 10
    assert list(reading) == []


def test_a_closed_source_says_so(tmp_path):
    save_file({"a": np.arange(5.0)}, tmp_path / "w.safetensors")
    with opening(tmp_path / "w.safetensors") as source:
        pass
    with pytest.raises(UserError, match=r"w\.safetensors was closed"):
        source.tensors[0].whole()


def test_a_file_cut_short_while_it_is_read_is_told(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": np.zeros(PIECE // 4), "b": np.ones(9)}, path)
    with opening(path) as source:
        reading = source.tensors[0].read()
        next(reading)
        os.truncate(path, 4096)
        with pytest.raises(UserError, match="was cut short while it was read"):
            next(reading)


MEMORY = """
import sys
from thrifty.sources.opening import opened

def resident():
    with open("/proc/self/status") as file:
        said = dict(line.split(":", 1) for line in file)
    return sum(int(said[key].split()[0]) for key in ("RssAnon", "RssFile", "RssShmem")) >> 10

total, most = 0, 0
for source in opened(sys.argv[1]):
    before = resident()
    for x in source.tensors:
        for piece in x.read():
            total += int(piece.view("u1").sum(dtype="u8")) + piece.size
            most = max(most, resident())
print(total, most - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told by /proc")
@pytest.mark.parametrize("tensors", [1, 400])
def test_reading_a_file_of_any_size_takes_the_memory_of_a_few_pieces(tmp_path, tensors):
    each = 400 << 20
    each = each // tensors // 4 * 4
    text = json.dumps(
        {
            f"w{i}": {
                "dtype": "F32",
                "shape": [each // 4],
                "data_offsets": [i * each, (i + 1) * each],
            }
            for i in range(tensors)
        }
    ).encode()
    path = tmp_path / "holes.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + tensors * each)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True
    )
    total, grown = map(int, done.stdout.split())
    assert total == tensors * each // 4
    assert grown < 64, f"{grown} MB"


def test_integers_with_a_scale_beside_them_are_described(tmp_path):
    arrays = {
        "one.weight": np.int8([[1, 2], [3, 4]]),
        "one.weight_scale": np.float32([0.5]),
        "rows.weight": np.uint8([[1, 2], [3, 4]]),
        "rows.weight_scale": np.float32([[0.5], [2]]),
        "rows.weight_zero_point": np.uint8([[3], [4]]),
        "blocks.weight": np.int8([[1, 2], [3, 4]]),
        "blocks.weight_scale": np.float32([[1, 2], [3, 4]]),
        "float.weight": np.float32([1]),
        "float.weight_scale": np.float32([1]),
    }
    save_file(arrays, tmp_path / "w.safetensors")
    with opening(tmp_path / "w.safetensors") as source:
        found = {x.name: x for x in source.tensors}
        one, rows = found["one.weight"].quantised, found["rows.weight"].quantised
        assert (one.scale.item(), one.zero.item(), one.axis) == (0.5, 0, None)
        assert (rows.scale.tolist(), rows.zero.tolist(), rows.axis) == ([0.5, 2], [3, 4], 0)
        assert found["blocks.weight"].quantised is None
        assert found["float.weight"].quantised is None
        assert found["rows.weight_zero_point"].role == "other"
        assert "blocks.weight: the scales" in source.notes[0] and len(source.notes) == 1


def test_a_scale_in_bfloat16_is_understood(tmp_path):
    x = {
        "w": torch.ones(2, 3).to(torch.float8_e4m3fn),
        "w_scale": torch.tensor([0.5, 3]).bfloat16(),
    }
    save_torch(x, tmp_path / "w.safetensors")
    with opening(tmp_path / "w.safetensors") as source:
        assert source.tensors[[x.name for x in source.tensors].index("w")].quantised.scale[1] == 3


def test_tensors_with_two_names_are_counted_once_and_told(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    for name in ("w.safetensors", "w.safetensors.zst"):
        save(model, tmp_path / name)
        (source,) = opened(tmp_path / name)
        assert {x.name for x in source.tensors} == {"0.weight", "0.bias", "1.bias"}
        assert source.notes == ("1.weight is 0.weight, and counted once",)


@pytest.mark.parametrize("said", ["3", "[" * 100000, '{"tied": 3}', "no"])
def test_a_damaged_entry_of_ours_is_told(tmp_path, said):
    save_file({"a": np.ones(2)}, tmp_path / "w.safetensors", {"thrifty": said})
    with pytest.raises(UserError, match="thrifty"):
        opening(tmp_path / "w.safetensors")


def test_a_file_that_is_none_is_told(tmp_path):
    (tmp_path / "empty.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        opening(tmp_path / "empty.safetensors")
    with pytest.raises(UserError, match="there is no file"):
        opening(tmp_path / "gone.safetensors")
    with pytest.raises(UserError, match="is a folder"):
        opening(tmp_path)

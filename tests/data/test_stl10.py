"""STL-10's binary files: pictures the right way round, and sizes that must agree."""

import numpy as np
import pytest
import torch

from thrifty.data import load_data
from thrifty.data.pictures import resized
from thrifty.errors import UserError


def write(folder, train=20, test=10):
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        rng.integers(0, 256, count * 3 * 96 * 96, dtype=np.uint8).tofile(folder / f"{part}_X.bin")
        (np.arange(count, dtype=np.uint8) % 10 + 1).tofile(folder / f"{part}_y.bin")
    return folder


def test_pixels_lie_column_by_column(tmp_path):
    write(tmp_path)
    raw = np.fromfile(tmp_path / "train_X.bin", np.uint8)
    data = load_data(f"stl10:{tmp_path}")
    assert data.train.inputs.shape == (20, 3, 96, 96)
    row, column, channel, picture = 5, 70, 2, 7
    place = ((picture * 3 + channel) * 96 + column) * 96 + row
    assert int(data.train.inputs[picture, channel, row, column]) == raw[place]
    assert data.train.labels.tolist() == [i % 10 for i in range(20)]
    assert data.class_names[0] == "airplane"


def test_resizing_while_reading_is_resizing_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr("thrifty.data.stl10.AT_ONCE", 3)
    write(tmp_path)
    whole, small = load_data(f"stl10:{tmp_path}"), load_data(f"stl10:{tmp_path}?size=28")
    assert torch.equal(small.train.inputs, resized(whole.train.inputs, 28))


def test_files_that_disagree_are_refused(tmp_path):
    write(tmp_path)
    path = tmp_path / "test_X.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"test_X\.bin has 276,479 bytes, and 10 labels are those"):
        load_data(f"stl10:{tmp_path}")


@pytest.mark.parametrize("label", [0, 11])
def test_labels_outside_one_to_ten_are_refused(tmp_path, label):
    write(tmp_path)
    np.full(20, label, np.uint8).tofile(tmp_path / "train_y.bin")
    with pytest.raises(UserError, match=f"labels from {label} to {label}; they are 1 to 10"):
        load_data(f"stl10:{tmp_path}")


def test_empty_and_missing_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"has none of train_y\.bin"):
        load_data(f"stl10:{tmp_path}")
    write(tmp_path)
    (tmp_path / "train_y.bin").write_bytes(b"")
    with pytest.raises(UserError, match="has 0 bytes, a label each"):
        load_data(f"stl10:{tmp_path}")


def test_more_than_fits_in_memory_is_refused_before_it_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("thrifty.data.stl10.LARGEST", 20 * 3 * 96 * 96)
    write(tmp_path)
    with pytest.raises(UserError, match="20 pictures of 128 x 128 pixels are more than"):
        load_data(f"stl10:{tmp_path}?size=128")

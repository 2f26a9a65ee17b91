import gzip
import os
import struct
from pathlib import Path

import pytest
import torch

from thrifty.data import load_data
from thrifty.data.idx import read_idx
from thrifty.errors import UserError


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_folder_of_plain_and_gzipped_files_is_read(name, idx_folder, pixels):
    data = load_data(f"{name}:{idx_folder}")
    assert torch.equal(data.train.inputs, torch.from_numpy(pixels(20, 6, 6))[:, None])
    assert data.test.labels.tolist() == list(range(10))
    assert (data.shift, data.flip) == {"mnist": (2, False), "fashion_mnist": (0, True)}[name]


def test_a_missing_file_is_named_with_all_its_usual_names(idx_folder):
    (idx_folder / "t10k-labels.idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="none of t10k-labels-idx1-ubyte, t10k-labels-idx1-ubyte"):
        load_data(f"mnist:{idx_folder}")


def test_a_gzip_that_ends_early_is_named(idx_folder):
    path = idx_folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte\.gz: cannot be read"):
        load_data(f"mnist:{idx_folder}")


def test_a_file_that_lost_its_end_is_named(idx_folder):
    path = idx_folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="promises 720 values .* cannot hold them"):
        load_data(f"mnist:{idx_folder}")


def test_labels_and_pictures_of_different_numbers_are_refused(idx_folder):
    path = idx_folder / "train-labels.idx1-ubyte"
    path.write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 19) + bytes(range(10)) + bytes(9))
    with pytest.raises(UserError, match="20 inputs and 19 labels"):
        load_data(f"mnist:{idx_folder}")


def test_a_label_that_is_no_digit_is_named(idx_folder):
    path = idx_folder / "train-labels.idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0b")
    with pytest.raises(UserError, match="train label 11 of row 19"):
        load_data(f"mnist:{idx_folder}")


def lying(*shape):
    return struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_header_that_promises_too_much_is_refused_before_memory_is_taken(tmp_path, pack):
    path = tmp_path / "a"
    path.write_bytes(pack(lying(2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(10)))
    with pytest.raises(UserError, match="cannot hold them"):
        read_idx(path, 3)


def test_a_header_that_promises_a_little_too_much_is_refused(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(lying(2, 3, 3) + bytes(17)))
    with pytest.raises(UserError, match="promises 18 values .*, and there are 17"):
        read_idx(path, 3)


def test_a_gzip_is_not_unpacked_beyond_its_header_and_one_byte(tmp_path, monkeypatch):
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(lying(1, 2, 2) + bytes(50_000_000)))
    read = []
    original = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, n: read.append(n) or original(self, n))
    with pytest.raises(UserError, match="promises 4 values .*, and there are more"):
        read_idx(path, 3)
    assert sum(read) == 16 + 5


@pytest.mark.parametrize("content", [b"", b"\0\0", b"PNG....", lying(3), b"\x1f\x8b rubbish"])
def test_another_file_is_told_apart(tmp_path, content):
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)):
        read_idx(path, 3)


def test_nothing_promised_is_an_empty_tensor(tmp_path):
    (tmp_path / "a").write_bytes(lying(0, 3, 3))
    assert read_idx(tmp_path / "a", 3).shape == (0, 3, 3)


@pytest.mark.real
@pytest.mark.skipif("THRIFTY_DATA" not in os.environ, reason="THRIFTY_DATA is not set")
def test_mnist_and_fashion_mnist_have_70000_pictures_and_the_known_moments():
    folder = Path(os.environ["THRIFTY_DATA"])
    mnist = load_data(f"mnist:{folder}/mnist")
    assert (len(mnist.train), len(mnist.test)) == (60000, 10000)
    assert mnist.train.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert mnist.mean + mnist.std == pytest.approx((0.1307, 0.3081), abs=1e-4)
    fashion = load_data(f"fashion_mnist:{folder}/fashion-mnist")
    assert torch.bincount(fashion.train.labels).tolist() == [6000] * 10
    assert fashion.mean + fashion.std == pytest.approx((0.2860, 0.3530), abs=1e-4)

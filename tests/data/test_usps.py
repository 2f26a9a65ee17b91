"""USPS as LIBSVM publishes it: right answers from good lines, an error for any other."""

import bz2

import numpy as np
import pytest
import torch

from thrifty.data import load_data
from thrifty.data.usps import PIXELS, read_libsvm
from thrifty.errors import UserError


def line_of(label, values):
    return " ".join([str(label), *(f"{i}:{v:g}" for i, v in enumerate(values, 1))])


def some_lines(count, seed=0):
    rng = np.random.default_rng(seed)
    return [line_of(i % 10 + 1, rng.uniform(-1, 1, PIXELS).round(4)) for i in range(count)]


def write(path, lines):
    text = "\n".join(lines).encode() + b"\n"
    path.write_bytes(bz2.compress(text) if path.suffix == ".bz2" else text)
    return path


def test_class_one_is_label_nought_and_values_become_bytes(tmp_path):
    values = np.zeros(PIXELS)
    values[:4] = -1, 1, 0.5, -0.25
    split = read_libsvm(write(tmp_path / "usps", [line_of(1, values), line_of(10, -values)]))
    assert split.labels.tolist() == [0, 9]
    assert split.inputs.dtype == torch.uint8
    assert split.inputs.shape == (2, 1, 16, 16)
    # As torchvision has it: cut off, not rounded.
    assert split.inputs[0].flatten()[:5].tolist() == [0, 255, 191, 95, 127]


def test_places_that_are_left_out_are_nought(tmp_path):
    split = read_libsvm(write(tmp_path / "usps", ["3 1:-1 17:1 256:-1"]))
    flat = split.inputs.flatten().tolist()
    assert [flat[i] for i in (0, 1, 16, 255)] == [0, 127, 255, 0]


@pytest.mark.parametrize("end", ["", ".bz2"])
def test_packed_and_plain_files_are_read_and_resized(tmp_path, end):
    write(tmp_path / f"usps{end}", some_lines(20))
    write(tmp_path / f"usps.t{end}", some_lines(10, seed=1))
    data = load_data(f"usps:{tmp_path}?size=28")
    assert (len(data.train), len(data.test), data.shape) == (20, 10, (1, 28, 28))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("11 1:0", "line 2: the class is 11; classes are 1 to 10"),
        ("nan 1:0", "the class is nan"),
        ("1.5 1:0", "the class is 1.5"),
        ("1 1:x", "is not CLASS PLACE:VALUE"),
        ("1 1", "is not CLASS PLACE:VALUE"),
        ("1 0:0.5", "not 1 to 256, rising"),
        ("1 2:0 2:0", "not 1 to 256, rising"),
        ("1 257:0", "not 1 to 256, rising"),
        ("1 1:1.5", "not from -1 to 1"),
        ("1 1:nan", "not from -1 to 1"),
        ("1 " + "9" * 5000 + ":0", "line 2"),
        ("\xff\xfe", "is not CLASS PLACE:VALUE"),
        ("1 1:" + "0" * 20000, "a line of more than 16,384 bytes"),
    ],
)
def test_a_line_that_is_no_picture_is_named(tmp_path, line, message):
    path = write(tmp_path / "usps", [*some_lines(1), line])
    with pytest.raises(UserError, match=message):
        read_libsvm(path)


def test_damaged_empty_and_endless_files_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "usps.bz2", some_lines(20))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot be read"):
        read_libsvm(path)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(UserError, match="has no line"):
        read_libsvm(tmp_path / "empty")
    monkeypatch.setattr("thrifty.data.usps.MOST_ROWS", 10)
    with pytest.raises(UserError, match="more than the 10 lines"):
        read_libsvm(write(tmp_path / "usps", some_lines(11)))


def test_a_bomb_is_not_unpacked(tmp_path):
    (tmp_path / "usps.bz2").write_bytes(bz2.compress(bytes(1 << 26)))
    with pytest.raises(UserError, match="a line of more than"):
        read_libsvm(tmp_path / "usps.bz2")


def test_a_folder_without_the_files_says_which(tmp_path):
    with pytest.raises(UserError, match=r"has none of usps\.bz2, usps"):
        load_data(f"usps:{tmp_path}")

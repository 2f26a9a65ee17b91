import io
import zipfile

import numpy as np
import pytest
import torch

from thrifty.data import load_data
from thrifty.errors import UserError


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        np.savez_compressed(tmp_path / "a.npz", **arrays)
        return f"npz:{tmp_path}/a.npz"

    return write


def labels(n=10, classes=2):
    return np.arange(n) % classes


def four(x, y=None):
    y = labels(len(x)) if y is None else y
    return {"x_train": x, "y_train": y, "x_test": x[:4], "y_test": y[:4]}


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((10, 5, 6), (1, 5, 6)),
        ((10, 5, 6, 3), (3, 5, 6)),
        ((10, 3, 5, 6), (3, 5, 6)),
        ((10, 5, 6, 1), (1, 5, 6)),
    ],
)
def test_the_axis_of_channels_is_found(save, pixels, shape, expected):
    x = pixels(*shape)
    data = load_data(save(**four(x)))
    assert data.shape == expected
    assert data.train.inputs.dtype == torch.uint8
    moved = np.moveaxis(x, -1, 1) if shape[-1] in (1, 3) else x
    assert np.array_equal(data.train.inputs.numpy().squeeze(), moved.squeeze())


@pytest.mark.parametrize("shape", [(10, 3, 5, 3), (10, 4, 5, 6)])
def test_an_axis_that_cannot_be_found_must_be_told(save, pixels, shape):
    spec = save(**four(pixels(*shape)))
    with pytest.raises(UserError, match="layout=nhwc or layout=nchw"):
        load_data(spec)
    assert load_data(f"{spec}?layout=nchw").shape == shape[1:]
    assert load_data(f"{spec}?layout=nhwc").shape == (shape[3], shape[1], shape[2])
    with pytest.raises(UserError, match="layout is 'hwc'"):
        load_data(f"{spec}?layout=hwc")


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int32, np.uint8])
def test_rows_of_features_become_float32(save, kind):
    data = load_data(save(**four(np.arange(20).reshape(10, 2).astype(kind))))
    assert data.train.inputs.dtype == torch.float32
    assert data.train.inputs[3].tolist() == [6.0, 7.0]
    assert len(data.mean) == 2


def test_without_a_test_part_a_fifth_is_set_aside(save, pixels):
    data = load_data(save(x=pixels(20, 4, 4), y=labels(20)[:, None]))
    assert (len(data.train), len(data.test)) == (16, 4)


BAD = {
    "needs x_train, .*it has images": {"images": labels()},
    "one whole number a row": four(np.zeros((10, 2)), np.eye(10)),
    "float64 of shape": four(np.zeros((10, 2)), labels().astype(float)),
    "has 10 rows and its labels 9": {"x": np.zeros((10, 2)), "y": labels(9)},
    "label -1 of row 0": four(np.zeros((10, 2)), labels() - 1),
    "lone label": four(np.zeros((10, 2)), np.zeros(10, int)),
    "NaN or infinity, first in row 0": four(np.full((10, 2), np.nan)),
    "infinity": four(np.full((10, 2), 1e300)),
    "pictures are uint8": four(np.zeros((10, 4, 4), np.int64)),
    "inputs are uint8 or floating": four(np.array([["a"]] * 10)),
    "shape .10,.; inputs are": four(np.zeros(10)),
    "holds Python objects": four(np.array([[None]] * 10)),
    "labels are 0 .. classes - 1": four(np.zeros((10, 2)), np.full(10, 2**63, np.uint64)),
    "classes is 4": four(np.zeros((10, 2)), np.arange(10) + 2**32),
    "train is empty": four(np.zeros((0, 2)), np.zeros(0, int)),
}


@pytest.mark.parametrize("message", BAD)
def test_arrays_that_cannot_be_used_are_explained(save, message):
    with pytest.raises(UserError, match=message.replace("lone label", "classes is 1")):
        load_data(save(**BAD[message]))


def test_a_damaged_archive_is_named(save, tmp_path, pixels):
    spec = save(**four(pixels(10, 8, 8)))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[200:260] = bytes(60)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz: not a NumPy archive"):
        load_data(spec)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"rubbish" * 9])
def test_another_file_is_told_apart(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz: not a NumPy archive"):
        load_data(f"npz:{tmp_path}/a.npz")


def test_an_archive_that_unpacks_to_too_much_is_refused(save, tmp_path, monkeypatch):
    monkeypatch.setattr("thrifty.data.npz.LARGEST", 1000)
    with pytest.raises(UserError, match="unpacks to .* GiB, more than"):
        load_data(save(**four(np.zeros((100, 100)))))


def test_a_header_that_describes_more_than_there_is_is_refused(tmp_path):
    header = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)}
    np.lib.format.write_array_header_1_0(header, described)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for key in ("x", "y"):
            archive.writestr(f"{key}.npy", header.getvalue() + bytes(10))
    with pytest.raises(UserError, match="header of x describes .*1,000,000,000,000 bytes"):
        load_data(f"npz:{tmp_path}/a.npz")

import sys

import numpy as np
import pytest
import torch

from thrifty.data import load_data
from thrifty.data.pictures import cropped, grey, resized
from thrifty.errors import MissingExtra, UnknownName, UserError


def test_a_subset_is_stratified_and_the_same_each_time():
    data = load_data("digits?train=100&test=20")
    assert torch.bincount(data.train.labels).tolist() == [10] * 10
    assert torch.bincount(data.test.labels).tolist() == [2] * 10
    again = load_data("digits?test=20&train=100")
    assert again.digest == data.digest
    assert again.digest != load_data("digits?train=100&test=20&seed=1").digest


def test_one_spec_is_read_once():
    assert load_data("digits?train=50") is load_data("digits?train=50")


def test_subsets_share_what_was_read():
    test = load_data("digits?train=50").test
    assert load_data("digits?train=60").test.inputs.data_ptr() == test.inputs.data_ptr()


def test_a_file_that_changed_is_read_again(tmp_path):
    x, y = np.zeros((10, 2), np.float32), np.arange(10) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y)
    first = load_data(f"npz:{tmp_path}/a.npz")
    np.savez(tmp_path / "a.npz", x=np.ones((20, 2), np.float32), y=np.arange(20) % 2)
    assert len(load_data(f"npz:{tmp_path}/a.npz").train) != len(first.train)


def test_a_relative_place_is_that_of_the_current_directory(tmp_path, monkeypatch):
    for n in (10, 20):
        (tmp_path / str(n)).mkdir()
        np.savez(tmp_path / str(n) / "a.npz", x=np.zeros((n, 2)), y=np.arange(n) % 2)
        monkeypatch.chdir(tmp_path / str(n))
        data = load_data("npz:a.npz")
        assert len(data.train) + len(data.test) == n


def test_the_name_is_the_spec():
    assert load_data("digits?train=100").name == "digits?train=100"


def test_normalisation_is_by_the_training_pictures_unless_told():
    data = load_data("digits?train=100")
    prepared = data.prepare(data.train.inputs)
    assert abs(float(prepared.mean())) < 1e-5
    assert float(prepared.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert load_data("digits?normalize=half").mean == (0.5,)
    assert load_data("digits?normalize=none").std == (1.0,)


def test_augmentation_can_be_set():
    data = load_data("digits?shift=2&flip=true")
    assert (data.shift, data.flip) == (2, True)
    assert load_data("digits?shift=0").shift == 0


def test_the_middle_of_pictures_can_be_cut_out_after_resizing():
    whole, data = load_data("digits?size=16"), load_data("digits?size=16&crop=13")
    assert data.shape == (1, 13, 13)
    assert torch.equal(data.test.inputs, whole.test.inputs[:, :, 2:15, 2:15])
    assert torch.equal(load_data("digits?crop=8").train.inputs, load_data("digits").train.inputs)


def test_grey_pictures_have_one_channel_and_its_mean(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 9, 9, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=pixels, y=np.arange(20) % 2)
    spec = f"npz:{tmp_path}/a.npz"
    colour, data = load_data(spec), load_data(f"{spec}?grey=true&size=8&crop=6")
    assert data.shape == (1, 6, 6)
    expected = cropped(resized(grey(colour.train.inputs), 8), 6)
    assert torch.equal(data.train.inputs, expected)
    assert data.mean == pytest.approx((float(expected.double().mean()) / 255,))
    assert load_data(f"{spec}?grey=false").shape == (3, 9, 9)
    assert load_data("digits?grey=true").digest == load_data("digits").digest


def test_a_mean_that_came_with_the_data_is_not_kept_for_grey_pictures(tmp_path, monkeypatch):
    (tmp_path / "made_with_mean.py").write_text(WITH_MEAN)
    monkeypatch.chdir(tmp_path)
    assert load_data("module:made_with_mean:make").mean == (0.1, 0.2, 0.3)
    assert len(load_data("module:made_with_mean:make?grey=true").mean) == 1


def test_pictures_can_be_resized():
    data = load_data("digits?size=16")
    assert data.shape == (1, 16, 16)
    assert data.test.inputs.dtype == torch.uint8
    same = load_data("digits")
    difference = data.mean[0] - same.mean[0]
    assert abs(difference) < 0.02


WITH_MEAN = """
import torch
from thrifty.data import Data, Split

def make():
    split = Split(torch.zeros(4, 3, 5, 5, dtype=torch.uint8), torch.arange(4) % 2)
    return Data("made", split, split, 2, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
"""

BAD = {
    "digts": "did you mean digits",
    "digits?trian=3": "no option 'trian'; did you mean train",
    "digits?train=0": "train is 0; it is a whole number, 1 or more",
    "digits?train=-5": "train is -5",
    "digits?train=0.5": "train is 0.5",
    "digits?train=true": "train is True",
    "digits?train=99999": "more than the 1258 rows",
    "digits?train=1": "at least two classes",
    "digits?flip=2": "it is true or false",
    "digits?grey=1": "grey is 1; it is true or false",
    "digits?normalize=no": "did you mean none",
    "digits?normalize=imagenet": "3 channels",
    "digits?shift=8": "less than the picture side",
    "digits?crop=9": "crop=9 asks for 9 x 9 pixels, and these are pictures of 8 x 8",
    "digits?crop=0": "crop is 0",
    "digits?normalize=caffe": "pictures of 3 channels, these have 1",
    "digits?size=0": "size is 0",
    "digits?size=100000": "4096 at most",
    "digits?seed=x": "seed is 'x'",
    "digits?train": "cannot be read",
    "digits?train=1&train=2": "twice",
    "mnist": "write mnist:DIR",
    "mnist:no/such": "there is no folder",
    "npz:no/such": "there is no file",
    "parquet:no/such.parquet": "there is no file",
    "folder:no/such": "there is no folder",
    "no/such": "no path that exists",
    "": "there is digits",
}


@pytest.mark.parametrize("spec", BAD)
def test_a_mistake_in_the_spec_is_explained(spec):
    with pytest.raises(UserError, match=BAD[spec]):
        load_data(spec)


def test_an_unknown_name_is_its_own_kind_of_error():
    with pytest.raises(UnknownName):
        load_data("digts")


def test_a_bare_path_is_told_which_reader_fits(tmp_path):
    for name in ("a.npz", "b.parquet", "many/train.parquet", "m/train-images-idx3-ubyte", "f/x/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    fits = {"a.npz": "npz", "b.parquet": "parquet", "many": "parquet", "m": "mnist", "f": "folder"}
    for name, reader in fits.items():
        with pytest.raises(UserError, match=f"write {reader}:{tmp_path / name}"):
            load_data(str(tmp_path / name))


@pytest.mark.parametrize(
    "package, spec, extra",
    [
        ("pyarrow", "parquet:a.parquet", "data"),
        ("PIL", "folder:.", "data"),
        ("datasets", "hf:a/b", "hub"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    package, spec, extra, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("a.parquet", "x/a.png", "y/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'thrifty\[{extra}\]'"):
        load_data(spec)


def test_what_the_file_system_says_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made_to_fail.py").write_text("def make(): raise PermissionError('a.bin')")
    with pytest.raises(UserError, match=r"module:made_to_fail:make: cannot be read \(a\.bin\)"):
        load_data("module:made_to_fail:make")

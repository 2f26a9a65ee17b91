import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from thrifty.data import load_data
from thrifty.data.digits import FILE, stored
from thrifty.errors import UserError


def test_the_stored_values_are_those_of_scikit_learn():
    theirs = load_digits()
    values, labels = stored()
    assert np.array_equal(values, theirs.images)
    assert np.array_equal(labels, theirs.target)


def test_pictures_are_the_stored_values_scaled_to_bytes():
    data = load_data("digits")
    values, _ = stored()
    ours = torch.cat([data.train.inputs, data.test.inputs]).flatten(1).unique(dim=0)
    theirs = torch.from_numpy(np.rint(values.astype(float) * 255 / 16).astype(np.uint8)).flatten(1)
    assert torch.equal(ours, theirs.unique(dim=0))
    assert int(ours.max()) == 255


def test_the_split_is_70_to_30_and_the_same_for_good():
    data = load_data("digits")
    assert (len(data.train), len(data.test)) == (1258, 539)
    assert torch.bincount(data.test.labels).tolist() == [53, 55, 53, 55, 54, 55, 54, 54, 52, 54]
    assert data.digest == "f33e8baded0085f1"
    assert (data.shift, data.flip, data.shape, data.classes) == (1, False, (1, 8, 8), 10)


def test_five_folds_test_every_scan_once():
    tests = [load_data(f"digits?fold={k}").test for k in range(5)]
    assert [len(test) for test in tests] == [360, 360, 359, 359, 359]
    _, labels = stored()
    found = torch.cat([test.labels for test in tests])
    assert torch.bincount(found).tolist() == np.bincount(labels).tolist()


@pytest.mark.parametrize("fold", ["5", "-1", "one"])
def test_there_are_no_other_folds(fold):
    with pytest.raises(UserError, match="folds 0 .. 4"):
        load_data(f"digits?fold={fold}")


def test_the_licence_is_beside_the_file():
    text = FILE.with_suffix(".txt").read_text()
    assert "CC BY 4.0" in text and "https://doi.org/10.24432/C50P49" in text


def test_a_place_is_refused():
    with pytest.raises(UserError, match="comes with the package"):
        load_data("digits:somewhere")

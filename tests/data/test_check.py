import pytest
import torch

from thrifty.data import Data, Split, load_data
from thrifty.errors import UserError


def some_data(inputs=None, labels=None, test=None, classes=2, **changes):
    inputs = torch.zeros(4, 1, 3, 3, dtype=torch.uint8) if inputs is None else inputs
    labels = torch.tensor([0, 1, 0, 1]) if labels is None else labels
    train = Split(inputs, labels)
    fields = {"mean": (0.0,), "std": (1.0,), **changes}
    return Data("some", train, train if test is None else test, classes, **fields)


def test_good_data_pass_through_as_the_same_object():
    data = some_data()
    assert load_data(data) is data


BAD = {
    "train is empty": {"inputs": torch.zeros(0, 1, 3, 3), "labels": torch.zeros(0).long()},
    "test is empty": {"test": Split(torch.zeros(0, 1, 3, 3), torch.zeros(0).long())},
    "4 inputs and 3 labels": {"labels": torch.tensor([0, 1, 0])},
    "label 7 of row 2 .* outside 0 .. 1": {"labels": torch.tensor([0, 1, 7, 1])},
    "label -1 of row 0": {"labels": torch.tensor([-1, 1, 0, 1])},
    "every train label is 1": {"labels": torch.ones(4).long()},
    "classes is 1": {"labels": torch.zeros(4).long(), "classes": 1},
    "torch.float64": {"inputs": torch.zeros(4, 1, 3, 3).double()},
    "shape .4, 3, 3.; pictures": {"inputs": torch.zeros(4, 3, 3, dtype=torch.uint8)},
    "shape .4,.": {"inputs": torch.zeros(4)},
    "hold nothing": {"inputs": torch.zeros(4, 1, 0, 3)},
    "labels are torch.int32": {"labels": torch.tensor([0, 1, 0, 1]).int()},
    "not tensors": {"inputs": [[0.0]] * 4},
    "NaN or infinity, first in row 3": {
        "inputs": torch.tensor([[0.0], [1.0], [2.0], [float("nan")]])
    },
    "must be alike": {"test": Split(torch.zeros(2, 1, 4, 4).byte(), torch.tensor([0, 1]))},
    "mean has 3 numbers for 1": {"mean": (0.0, 0.0, 0.0)},
    "std above 0": {"std": (0.0,)},
    "1 class names for 2": {"class_names": ("a",)},
    "shift is 3": {"shift": 3},
    "shift is -1": {"shift": -1},
    "for pictures": {"inputs": torch.zeros(4, 1), "flip": True},
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_wrong_is_said(message):
    with pytest.raises(UserError, match=message):
        load_data(some_data(**BAD[message]))


def test_everything_wrong_is_said_at_once():
    with pytest.raises(UserError, match="train label 9.*test inputs have NaN"):
        bad = Split(torch.full((2, 1), float("inf")), torch.tensor([0, 1]))
        load_data(some_data(labels=torch.tensor([0, 1, 9, 1]), test=bad))

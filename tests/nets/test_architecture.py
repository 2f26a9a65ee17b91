import copy
import pickle

import pytest
import torch
from torch import nn

from thrifty.errors import UserError
from thrifty.nets import Architecture, architecture_of, count_macs, resolve


def macs_of_attention():
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)


class OnlyRealNumbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) if float(x.sum()) < 1e9 else x


def test_a_copy_remembers_how_it_was_made():
    model = resolve("lenet?width=0.5", classes=7, shape=(1, 8, 8))
    said = Architecture("lenet?width=0.5", 7, (1, 8, 8))
    assert architecture_of(model) == said
    assert architecture_of(copy.deepcopy(model)) == said
    assert architecture_of(pickle.loads(pickle.dumps(model))) == said


def test_defaults_are_remembered_as_they_were_used():
    assert architecture_of(resolve("lenet")) == Architecture("lenet", 10, (1, 28, 28))


def test_a_module_of_others_has_no_architecture():
    assert architecture_of(nn.Linear(2, 2)) is None


def test_macs_of_a_convolution_are_counted_by_hand():
    assert count_macs(nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4)) == 3 * 2 * 9 * 5 * 4


def test_macs_of_attention_are_counted():
    tokens = 5
    projections = 4 * tokens * 8 * 8 + 2 * tokens * 8 * 16
    scores = 2 * tokens * tokens * 8
    assert count_macs(macs_of_attention(), (tokens, 8)) == projections + scores


def test_macs_are_counted_where_an_operation_needs_numbers():
    assert count_macs(OnlyRealNumbers(), (4,)) == 12


def test_counting_leaves_the_network_alone():
    model = resolve("resnet20?width=0.25").train()
    before = copy.deepcopy(model.state_dict())
    count_macs(model, (3, 32, 32))
    assert model.training
    for name, x in model.state_dict().items():
        assert x.device.type == "cpu"
        assert torch.equal(x, before[name])


def test_an_input_that_does_not_fit_is_told_with_its_shape():
    with pytest.raises(UserError, match=r"does not take one input of shape \(5,\)"):
        count_macs(nn.Linear(4, 3), (5,))

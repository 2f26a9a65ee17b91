"""A stack holds models of one architecture, gives each back, and refuses what does not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from thrifty.errors import UserError
from thrifty.population.stack import born, stack

SPEC = "zoo_cnn_s?width=0.25"
SHAPE = (1, 8, 8)


def a_stack(count=3, **columns):
    return born([SPEC] * count, SHAPE, 10, list(range(count)), **columns)


def test_a_stack_gives_back_the_models_it_was_made_of():
    models = [a_stack(1).module(0) for _ in range(2)] + [a_stack(3).module(2)]
    found = stack(models, SPEC, SHAPE, 10)
    inputs = torch.randn(4, *SHAPE)
    for model, again in zip(models, found.modules(), strict=True):
        assert torch.equal(model.eval()(inputs), again(inputs))


def test_a_model_is_drawn_by_its_own_seed_whatever_lies_beside_it():
    alone, among = born([SPEC], SHAPE, 10, [7]), born([SPEC] * 3, SHAPE, 10, [3, 7, 1])
    for name, tensor in alone.tensors.items():
        assert torch.equal(tensor[0], among.tensors[name][1])


def test_some_of_a_stack_keep_their_columns_masks_and_spread():
    whole = a_stack(4, lr=[1.0, 2.0, 3.0, 4.0])
    masks = {"fc2.weight": whole.tensors["fc2.weight"] > 0}
    whole = replace(whole, masks=masks, spread=whole.tensors)
    some = whole[[3, 1]]
    assert len(some) == 2
    assert some.columns["lr"].tolist() == [4.0, 2.0]
    assert torch.equal(some.masks["fc2.weight"][0], masks["fc2.weight"][3])
    assert torch.equal(some.spread["fc1.bias"][1], whole.tensors["fc1.bias"][1])
    assert len(whole[1:3]) == 2


def test_what_is_masked_is_zero_in_the_module():
    found = a_stack(2)
    kept = found.tensors["fc1.weight"].abs() > 0.1
    made = replace(found, masks={"fc1.weight": kept}).module(1)
    assert torch.equal(made.fc1.weight != 0, kept[1])


def test_a_module_has_the_dropout_of_its_model():
    found = born([f"{SPEC}&dropout=0.3"] * 2, SHAPE, 10, [0, 1], dropout=[0.1, 0.2])
    rates = {m.p for m in found.module(1).modules() if isinstance(m, nn.Dropout)}
    assert [round(rate, 6) for rate in rates] == [0.2]


def test_models_of_two_architectures_are_refused_and_the_first_strange_one_is_named():
    models = [nn.Sequential(nn.Linear(4, 2)), nn.Sequential(nn.Linear(4, 3))]
    with pytest.raises(UserError, match=r"model 1 has other tensors .* a stack of each"):
        stack(models, "net", (4,), 2)


def test_statistics_of_batch_normalisation_are_part_of_a_stack():
    models = born(["resnet20?width=0.1"] * 2, (1, 8, 8), 10, [0, 1]).modules()
    models = [model.train() for model in models]
    for model in models:
        model(torch.randn(3, 1, 8, 8))
    found = stack(models, "resnet20?width=0.1", (1, 8, 8), 10)
    assert "bn1.running_mean" in found.buffers and "bn1.weight" not in found.buffers
    assert found.tensors["bn1.num_batches_tracked"].tolist() == [1, 1]
    assert found.parameters == sum(p.numel() for p in models[0].parameters())
    for model, again in zip(models, found.modules(), strict=True):
        assert all(torch.equal(x, again.state_dict()[n]) for n, x in model.state_dict().items())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)
        self.other.weight = self.one.weight


def test_a_parameter_with_two_names_is_refused():
    with pytest.raises(UserError, match="a parameter under two names"):
        stack([Tied()], "net", (4,), 4)


def test_no_models_are_refused():
    with pytest.raises(UserError, match="has no models; give one at least"):
        stack([], SPEC, SHAPE, 10)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"learning_rate": 0.1}, "no column 'learning_rate'; it has lr, weight_decay"),
        ({"lr": [0.1, 0.2]}, "lr has 2 values for 3 models; give one each"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns, said):
    with pytest.raises(UserError, match=said):
        a_stack(3, **columns)


def test_a_column_of_one_number_is_for_all():
    assert np.array_equal(a_stack(3, lr=0.5).columns["lr"], np.full(3, 0.5, np.float32))

"""Learnt soft thresholds: exact zeros below them, and gradients only above."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.func import vmap

from thrifty.data import load_data
from thrifty.errors import UserError
from thrifty.pruning.gates import gate
from thrifty.pruning.gates.soft_threshold import soft
from thrifty.training.loop import train
from thrifty.training.plan import Plan


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def test_weights_shrink_by_the_threshold_and_are_exactly_zero_below_it():
    torch.manual_seed(0)
    weight = torch.randn(1000)
    threshold = torch.tensor(0.4)
    found = soft(weight, threshold)
    torch.testing.assert_close(found, weight.sign() * torch.relu(weight.abs() - 0.4))
    gone = weight.abs() <= 0.4
    assert bool((found[gone].view(torch.int32) == 0).all())
    assert bool(found[~gone].all())
    assert soft(torch.tensor([0.4, -0.4, 0.0, -0.0]), threshold).tolist() == [0, 0, 0, 0]


def test_gradients_reach_what_is_above_the_threshold_and_the_threshold():
    weight = torch.tensor([1.0, -2.0, 0.1, 0.0], requires_grad=True)
    threshold = torch.tensor(0.5, requires_grad=True)
    (soft(weight, threshold) * torch.tensor([1.0, 10.0, 100.0, 1000.0])).sum().backward()
    assert weight.grad.tolist() == [1.0, 10.0, 0.0, 0.0]
    assert float(threshold.grad) == -1.0 + 10.0


def test_a_stack_of_networks_has_thresholds_of_its_own():
    weights, thresholds = torch.randn(3, 4, 5), torch.tensor([0.1, 0.5, 1.0])
    together = vmap(soft)(weights, thresholds)
    apart = torch.stack([soft(*pair) for pair in zip(weights, thresholds, strict=True)])
    assert torch.equal(together, apart)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 5),
        nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(1, 4, 3, padding="same", padding_mode="circular", bias=False),
        nn.Conv3d(2, 3, 2, dilation=2),
    ],
    ids=str,
)
def test_folding_writes_the_weights_that_the_layer_computes_with(layer):
    model = nn.Sequential(copy.deepcopy(layer))
    found = gate("str?init=-2")
    found.attach(model)
    shape = [
        3,
        layer.weight.shape[1] * getattr(layer, "groups", 1),
        *[5] * (layer.weight.dim() - 2),
    ]
    inputs = torch.randn(shape)
    before = model.eval()(inputs)
    assert torch.equal(model.train()(inputs), before)
    scores = found.scores(model)["0.weight"]
    found.fold(model)
    weight = model[0].weight
    cut = 1 / (1 + math.exp(2.0))
    torch.testing.assert_close(weight, layer.weight.sign() * torch.relu(layer.weight.abs() - cut))
    assert 0 < int((weight == 0).sum()) < weight.numel()
    assert torch.equal(scores > found.cutoff(0), weight != 0)
    torch.testing.assert_close(scores[weight != 0], weight[weight != 0].abs())
    assert torch.equal(model(inputs), before)


def test_the_penalty_is_weight_decay_of_the_thresholds_of_which_the_training_spares_them():
    model = linear()
    found = gate("str?strength=0.1&init=-4")
    found.attach(model)
    found.penalty(model, 0.3).backward()
    assert [float(p.grad) for p in found.variables(model).values()] == pytest.approx([-0.4, -0.4])
    assert gate("str?strength=0").penalty(model, 0.3) is None


def test_a_training_learns_a_threshold_for_every_layer_and_stays_right():
    digits = load_data("digits?train=600&test=200")
    model = linear()
    found = gate("str?strength=0.02")
    found.attach(model)
    train(model, digits, Plan(epochs=40, batch=50), gate=found)
    one, two = (float(p.detach()) for p in found.variables(model).values())
    assert one != two
    assert min(one, two) > -5.0
    found.fold(model)
    zeros = sum(int((m.weight == 0).sum()) for m in model if isinstance(m, nn.Linear))
    assert zeros > 0.3 * (64 * 32 + 32 * 10)
    outputs = model(digits.prepare(digits.test.inputs))
    assert float((outputs.argmax(1) == digits.test.labels).float().mean()) > 0.85


def test_what_means_nothing_is_refused():
    for spec in ("str?strength=-1", "str?init=nan", "str?init=-1e9"):
        with pytest.raises(UserError, match="the gate has"):
            gate(spec)
    for wrong in (-0.1, math.nan, 1e9):
        with pytest.raises(UserError, match="threshold"):
            gate("str").cutoff(wrong)


def test_a_gate_that_diverged_names_the_layer_and_changes_nothing():
    model = linear()
    found = gate("str")
    found.attach(model)
    model[3].weight_gate.s.data.fill_(math.nan)
    before = model[1].weight.detach().clone()
    for call in (found.scores, found.fold):
        with pytest.raises(UserError, match="values of s of 3 are NaN"):
            call(model)
    assert torch.equal(model[1].weight, before)

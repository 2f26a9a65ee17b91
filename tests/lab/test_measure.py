"""Figures are counted: by hand here, by the code there."""

import numpy as np
import pytest
import torch
from torch import nn

from thrifty.data import Data, Split
from thrifty.errors import UserError
from thrifty.lab.measure import agree, costs, judge, latency_ratio, latency_us, measure
from thrifty.pruning import Budget, prune


@pytest.fixture(scope="module")
def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (30, 1, 6, 6), generator=generator, dtype=torch.uint8)
    split = Split(inputs, torch.arange(30) % 3)
    return Data("thirty", split, split, 3, (0.5,), (0.25,))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )


def test_parameters_and_multiply_adds_are_those_counted_by_hand():
    found = costs(network(), (1, 6, 6))
    assert found["params"] == 4 * 9 + 4 + 8 + 64 * 3 + 3
    assert found["prunable"] == 36 + 192
    assert found["macs"] == 36 * 16 + 192 == found["macs_nonzero"]
    assert found["layers"] == {"0.weight": [36, 36], "4.weight": [192, 192]}


def test_zeros_are_taken_from_the_multiply_adds_where_they_are():
    model = network()
    with torch.no_grad():
        model[0].weight[:2] = 0
        model[4].weight[0] = 0
    found = costs(model, (1, 6, 6))
    assert found["macs_nonzero"] == 18 * 16 + 128
    assert found["macs"] == 36 * 16 + 192
    assert found["sparsity"] == pytest.approx((18 + 64) / 228)
    assert found["layers"]["0.weight"] == [18, 36]


def test_a_layer_used_twice_multiplies_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4, bias=False)
            self.outer = nn.Linear(4, 2, bias=False)

        def forward(self, x):
            return self.outer(self.inner(self.inner(x)))

    model = Twice()
    with torch.no_grad():
        model.inner.weight[0] = 0
    found = costs(model, (4,))
    assert found["macs"] == 16 + 16 + 8
    assert found["macs_nonzero"] == 12 + 12 + 8


def test_measuring_changes_nothing(data):
    model = network().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = measure(model, data, original=network(), latency=True)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert found.agreement == 1.0
    assert found.latency_us > 0
    assert found.to_dict()["accuracy"] == found.accuracy


def test_accuracy_and_loss_do_not_depend_on_the_batches(data):
    whole, parts = judge(network(), data, 1000), judge(network(), data, 7)
    assert whole.accuracy == parts.accuracy
    assert whole.loss == pytest.approx(parts.loss)
    expected = network().eval()(data.prepare(data.test.inputs)).argmax(1)
    assert (whole.predictions == expected.numpy()).all()


def test_agreement_is_the_share_of_equal_answers():
    a, b = np.array([0, 1, 2, 2]), np.array([0, 1, 1, 0])
    assert agree(a, a) == 1.0
    assert agree(a, b) == 0.5


def test_a_pruned_model_is_measured_as_sparse_as_it_is(data):
    model = network()
    prune(model, "magnitude", Budget(0.5))
    assert measure(model, data).sparsity == 0.5


def test_latency_is_of_the_right_order(data):
    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(36, 3)

        def forward(self, x):
            import time

            time.sleep(0.002)
            return self.inner(x.flatten(1))

    assert 2000 <= latency_us(Slow(), data, seconds=0.01) < 100_000
    assert latency_ratio(Slow(), Slow(), data, seconds=0.01) == pytest.approx(1, abs=0.5)
    assert latency_ratio(Slow(), nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), data) > 5


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(9, 3)),
            r"does not take inputs of thirty, which are \[1, 6, 6\]",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(36, 2)),
            r"gives \[30, 2\] for 30 inputs.*each of 3 classes",
        ),
        (nn.Conv2d(1, 3, 3), r"gives \[30, 3, 4, 4\]"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_told_so(model, message, data):
    with pytest.raises(UserError, match=message):
        judge(model, data)

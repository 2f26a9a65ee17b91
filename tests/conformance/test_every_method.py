"""What holds for every method in the registry, those of other packages included."""

import pytest
import torch
from torch import nn

from thrifty.data import load_data
from thrifty.pruning import ALLOCATIONS, METHODS, Budget, Cut, cut, prunable
from thrifty.pruning.criteria import CRITERIA
from thrifty.pruning.granularity import GRANULARITIES
from thrifty.pruning.schedules import SCHEDULES, sparsity_at
from thrifty.registry import parse_spec
from thrifty.training.loop import train
from thrifty.training.plan import Plan


@pytest.fixture(scope="module")
def digits():
    return load_data("digits?train=64&test=32")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(216, 16),
        nn.Linear(16, 10),
    )


@pytest.mark.parametrize("name", METHODS.names())
def test_its_parts_exist_and_its_source_is_named(name):
    method = METHODS.get(name)
    assert method.criterion in CRITERIA
    assert method.granularity in GRANULARITIES
    assert parse_spec(method.allocation).name in ALLOCATIONS
    assert method.schedule in SCHEDULES
    assert "http" in method.source
    assert METHODS.summary(name) == method.about


@pytest.mark.parametrize("name", METHODS.names())
def test_it_reaches_its_sparsity_exactly_nests_and_holds_its_zeros(name, digits):
    model, before = network(), None
    total = sum(p.numel() for p in prunable(model).values())
    for level in (0.5, 0.9, 0.98):
        masks = cut(model, Cut.of(name), Budget(level), data=digits, within=before, seed=1)
        if METHODS.get(name).granularity == "weight":
            assert masks.kept == total - round(level * total)
        assert before is None or masks.within(before)
        train(model, digits, Plan(epochs=1, batch=16), masks=masks)
        for tensor, parameter in prunable(model).items():
            assert bool((parameter[~masks[tensor]].view(torch.int32) == 0).all())
        before = masks


@pytest.mark.parametrize("name", METHODS.names())
def test_it_is_the_same_twice_over(name, digits):
    first, second = (cut(network(), Cut.of(name), 0.8, data=digits, seed=3) for _ in range(2))
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_schedule_rises_from_its_start_to_its_target(name):
    ramp = SCHEDULES[name].ramp
    steps = [sparsity_at(p / 50, 0.2, 0.9, ramp) for p in range(51)]
    assert steps == sorted(steps)
    assert steps[-1] == pytest.approx(0.9)
    assert all(0.2 <= s <= 0.9 + 1e-12 for s in steps)

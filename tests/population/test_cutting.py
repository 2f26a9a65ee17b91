"""A stack is scored and cut as its models are: any criterion, allocation and granularity."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thrifty.data import load_data
from thrifty.errors import UserError
from thrifty.population.cutting import cut_stack, layers_of, scores_of
from thrifty.population.stack import born
from thrifty.pruning.allocation import ALLOCATIONS, Budget
from thrifty.pruning.criteria import CRITERIA
from thrifty.pruning.evidence import gather
from thrifty.pruning.pruning import Cut, batches, cut

SEEDS = [5, 6, 7]


@pytest.fixture(scope="module")
def data():
    return load_data("digits?train=150&test=20")


def a_stack(data, spec="zoo_cnn_s?width=0.5"):
    return born([spec] * 3, data.shape, data.classes, SEEDS)


def alone(stack, criterion, data):
    """The scores of each model by itself."""
    rule, found = CRITERIA.get(criterion), []
    for model, seed in zip(stack.modules(), SEEDS, strict=True):
        layers = gather(model, rule.needs, batches(data, model), seed)
        found.append({name: rule(layer) for name, layer in layers.items()})
    return {name: torch.stack([scores[name] for scores in found]) for name in found[0]}


@pytest.mark.parametrize("spec", ["zoo_cnn_s?width=0.5", "resnet20?width=0.2"])
@pytest.mark.parametrize("criterion", CRITERIA.names())
def test_scores_of_a_stack_are_those_of_each_model(criterion, spec, data):
    stack = a_stack(data, spec)
    kept = torch.rand(stack.tensors["conv1.weight"].shape) < 0.7
    stack = replace(stack, masks={"conv1.weight": kept})
    together = scores_of(stack, criterion, data=data, seeds=SEEDS)
    apart = alone(stack, criterion, data)
    assert list(together) == list(apart)
    for name, scores in together.items():
        torch.testing.assert_close(scores, apart[name], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
@pytest.mark.parametrize("granularity", ["weight", "filter", "channel", "kernel"])
@pytest.mark.parametrize("allocation", [*ALLOCATIONS, "global?floor=0.2"])
def test_a_stack_is_cut_as_each_model_is(allocation, granularity, criterion, data):
    stack = a_stack(data)
    how = Cut(criterion=criterion, granularity=granularity, allocation=allocation)
    found = cut_stack(stack, how, Budget(0.6), seeds=SEEDS)
    for index, (model, seed) in enumerate(zip(stack.modules(), SEEDS, strict=True)):
        masks = cut(model, how, Budget(0.6), seed=seed)
        assert set(masks) == set(found)
        assert all(torch.equal(mask, found[name][index]) for name, mask in masks.items())


@settings(deadline=None, max_examples=15)
@given(first=st.floats(0.05, 0.6), more=st.floats(0.0, 0.3))
def test_what_is_pruned_stays_pruned_and_counts_are_exact(first, more):
    data = load_data("digits?train=150&test=20")
    stack, how = a_stack(data), Cut(allocation="lamp")
    once = cut_stack(stack, how, Budget(first))
    twice = cut_stack(replace(stack, masks=once), how, Budget(first + more))
    size = sum(mask[0].numel() for mask in once.values())
    for index in range(3):
        kept = sum(int(mask[index].sum()) for mask in twice.values())
        assert kept == size - round(size * (first + more))
    assert all(not (twice[name] & ~mask).any() for name, mask in once.items())


def test_layers_that_are_to_stay_whole_have_no_mask(data):
    found = cut_stack(a_stack(data), Cut(keep=("conv1",)), Budget(0.5))
    assert "conv1.weight" not in found and "fc2.weight" in found


def test_gradients_of_large_models_are_gathered_one_by_one(data, monkeypatch):
    stack = a_stack(data)
    together = layers_of(stack, ("grad", "grad_square"), data, SEEDS)
    monkeypatch.setattr("thrifty.population.cutting.MOST_TOGETHER", 10)
    apart = layers_of(stack, ("grad", "grad_square"), data, SEEDS)
    for name, layer in apart.items():
        torch.testing.assert_close(layer.grad, together[name].grad, rtol=1e-3, atol=1e-7)
        assert layer.noise is None


def test_a_criterion_of_gradients_without_data_is_refused(data):
    with pytest.raises(UserError, match="needs gradients, so it needs data"):
        cut_stack(a_stack(data), Cut(criterion="saliency"), Budget(0.5))


def test_a_model_that_diverged_is_named(data):
    stack = a_stack(data)
    stack.tensors["fc1.weight"][1, 0, 0] = float("nan")
    with pytest.raises(UserError, match=r"fc1\.weight of model 1 cannot be scored"):
        cut_stack(stack, Cut(), Budget(0.5))

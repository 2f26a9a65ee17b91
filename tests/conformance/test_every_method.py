"""What holds for every method in the registry, those of other packages included."""

import copy

import pytest
import torch
from torch import nn

from thrifty.data import load_data
from thrifty.errors import UserError
from thrifty.nets import count_macs, resolve
from thrifty.pruning import ALLOCATIONS, METHODS, Budget, Cut, cut, prunable, prune
from thrifty.pruning.criteria import CRITERIA
from thrifty.pruning.gates import GATES, gate, has_own_units
from thrifty.pruning.granularity import GRANULARITIES
from thrifty.pruning.schedules import SCHEDULES, sparsity_at
from thrifty.pruning.structured import prune_channels
from thrifty.registry import parse_spec
from thrifty.training.loop import train
from thrifty.training.plan import Plan

EXAMPLE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
WEIGHTS = [name for name in METHODS.names() if METHODS.get(name).removes == "weights"]
LEARNING = [name for name in WEIGHTS if METHODS.get(name).gate is not None]
CHANNELS = [name for name in METHODS.names() if METHODS.get(name).removes == "channels"]
PRICED = [
    name
    for name in CHANNELS
    if (spec := METHODS.get(name).gate) is None or getattr(GATES.get(spec), "priced", True)
]
"""Those whose units take something, of which budgets are made."""


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


def learned(name: str, model: nn.Module, digits) -> dict[str, torch.Tensor] | None:
    """What the gates of a method score after an epoch, if it has any; the model stays."""
    spec = METHODS.get(name).gate
    if spec is None:
        return None
    model, found = copy.deepcopy(model), gate(spec, inputs=64, epochs=1)
    found.attach(model)
    train(model, digits, Plan(epochs=1, batch=16, optimizer="adam", lr=0.01), gate=found)
    return found.scores(model)


@pytest.mark.parametrize("name", METHODS.names())
def test_its_parts_exist_and_its_source_is_named(name):
    method = METHODS.get(name)
    assert method.criterion in CRITERIA
    assert method.granularity in GRANULARITIES
    assert parse_spec(method.allocation).name in ALLOCATIONS
    assert method.schedule in SCHEDULES
    assert "http" in method.source
    assert METHODS.summary(name) == method.about


@pytest.mark.parametrize("name", WEIGHTS)
def test_it_reaches_its_sparsity_exactly_nests_and_holds_its_zeros(name, digits):
    model, before = network(), None
    given = learned(name, model, digits)
    total = sum(p.numel() for p in prunable(model).values())
    for level in (0.5, 0.9, 0.98):
        masks = cut(
            model, Cut.of(name), Budget(level), data=digits, within=before, seed=1, given=given
        )
        if METHODS.get(name).granularity == "weight":
            assert masks.kept == total - round(level * total)
        assert before is None or masks.within(before)
        train(model, digits, Plan(epochs=1, batch=16), masks=masks)
        for tensor, parameter in prunable(model).items():
            assert bool((parameter[~masks[tensor]].view(torch.int32) == 0).all())
        before = masks


@pytest.mark.parametrize("name", WEIGHTS)
def test_it_is_the_same_twice_over(name, digits):
    first, second = (
        cut(model, Cut.of(name), 0.8, data=digits, seed=3, given=learned(name, model, digits))
        for model in (network(), network())
    )
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("name", LEARNING)
def test_a_method_that_learns_weights_refuses_one_cut_without_training(name):
    with pytest.raises(UserError, match=f"{name} learns in training .* run a recipe"):
        cut(network(), name, 0.5)
    with pytest.raises(UserError, match=f"{name} learns in training"):
        prune(network(), name, 0.5)


def test_scores_that_no_cut_can_use_are_refused():
    model = network()
    given = {name: -p.detach().abs() for name, p in prunable(model).items()}
    with pytest.raises(UserError, match="lamp takes shares of squares"):
        cut(model, Cut(), 0.5, given=given)
    with pytest.raises(UserError, match=r"given score of 3.weight is \[3\]"):
        cut(model, Cut(), 0.5, given=given | {"3.weight": torch.ones(3)})
    given["0.weight"][0] = torch.nan
    with pytest.raises(UserError, match="given score of 0.weight has NaN"):
        cut(model, Cut(allocation="global"), 0.5, given=given)
    with pytest.raises(UserError, match="for none of the layers"):
        cut(model, Cut(), 0.5, given={})


OWN = {
    "highway": "highway?width=1&blocks=1",
    "shortcuts": "thriftynet?filters=6&iterations=4&history=2&pool_every=2",
}
"""Gate -> a network that has its units."""


def normed(name: str = "") -> nn.Module:
    """A network that the method fits."""
    torch.manual_seed(0)
    spec = METHODS.get(name).gate if name else None
    if spec is not None and has_own_units(spec):
        return resolve(OWN[spec], classes=10, shape=(1, 8, 8))
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 36, 10),
    )


@pytest.mark.parametrize("of", ["params", "macs", "bytes", "sparsity"])
@pytest.mark.parametrize("name", PRICED)
def test_it_meets_a_budget_within_a_unit_with_channels_that_are_gone(name, of, digits):
    model = normed(name)
    small = prune_channels(model, name, Budget(0.5, of=of), EXAMPLE, data=digits, round=1)

    def cost(net: nn.Module, share: float = 1.0) -> float:
        if of == "macs":
            return share * count_macs(net, (1, 8, 8))
        if of == "sparsity":
            return share * sum(p.numel() for p in prunable(net).values())
        tensors = net.parameters() if of == "params" else net.state_dict().values()
        return share * sum(x.numel() * (x.element_size() if of == "bytes" else 1) for x in tensors)

    assert cost(model, 0.4) < cost(small) <= cost(model, 0.5)
    train(small, digits, Plan(epochs=1, batch=16))
    if not isinstance(small, nn.Sequential):
        return
    assert small[0].out_channels == small[1].num_features == small[3].in_channels < 16 or (
        small[3].out_channels < 24
    )


@pytest.mark.parametrize("name", sorted(set(CHANNELS) - set(PRICED)))
def test_what_has_no_size_asks_for_a_threshold_instead_of_a_budget(name, digits):
    for of in ("params", "macs", "bytes", "sparsity"):
        with pytest.raises(UserError, match="give a threshold"):
            prune_channels(normed(name), name, Budget(0.5, of=of), EXAMPLE, data=digits)


@pytest.mark.parametrize("name", CHANNELS)
def test_it_removes_the_same_channels_twice_over(name, digits):
    budget = Budget(0.6) if name in PRICED else Budget(0.2, of="threshold")
    first, second = (
        prune_channels(normed(name), name, budget, EXAMPLE, data=digits, seed=3).state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("name", CHANNELS)
def test_asked_for_masks_it_says_what_to_ask_for(name):
    with pytest.raises(UserError, match="small = thrifty.prune_channels"):
        cut(normed(), name, 0.5)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_schedule_rises_from_its_start_to_its_target(name):
    ramp = SCHEDULES[name].ramp
    steps = [sparsity_at(p / 50, 0.2, 0.9, ramp) for p in range(51)]
    assert steps == sorted(steps)
    assert steps[-1] == pytest.approx(0.9)
    assert all(0.2 <= s <= 0.9 + 1e-12 for s in steps)

"""What holds for every gate in the registry, those of other packages included."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import nn

from thrifty.channels.finding import groups as find_groups
from thrifty.data import load_data
from thrifty.errors import UserError
from thrifty.nets import resolve
from thrifty.pruning import prunable
from thrifty.pruning.gates import GATES, Gate, gate
from thrifty.pruning.gates.shortcuts import Shortcuts
from thrifty.pruning.gates.units import by_unit
from thrifty.training.loop import train
from thrifty.training.plan import Plan


@pytest.fixture(scope="module")
def digits():
    return load_data("digits?train=64&test=32")


def network(norms: bool) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6) if norms else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3),
        nn.BatchNorm2d(5) if norms else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(80, 12),
        nn.ReLU(),
        nn.Linear(12, 10),
    )


def highway() -> nn.Module:
    torch.manual_seed(0)
    return resolve("highway?width=1&blocks=1", classes=10, shape=(1, 8, 8))


def recursion() -> nn.Module:
    torch.manual_seed(0)
    spec = "thriftynet?filters=6&iterations=4&history=2&pool_every=2"
    return resolve(spec, classes=10, shape=(1, 8, 8))


NETWORKS: tuple[Callable[[], nn.Module], ...] = (
    lambda: network(False),
    lambda: network(True),
    highway,
    recursion,
)


class Attached(NamedTuple):
    """A gate, a network with the gate in it, and how to build that network without."""

    gate: Gate
    model: nn.Module
    build: Callable[[], nn.Module]


def attached(name: str, **options: object) -> Attached:
    """A network that the gate takes, with the gate in it."""
    for build in NETWORKS:
        model = build()
        groups = find_groups(model, some_inputs()[:2])
        found = gate(name, groups=groups, inputs=64, epochs=2, **options)
        try:
            found.attach(model)
        except UserError:
            continue
        return Attached(found, model, build)
    raise AssertionError(f"{name} takes no network of these")


def some_inputs() -> torch.Tensor:
    return torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def scores(found: Gate, model: nn.Module) -> dict[str, torch.Tensor]:
    """As they are read once a gate is trained."""
    found.measure(model, [(some_inputs(), torch.zeros(7, dtype=torch.long))])
    return found.scores(model)


@pytest.fixture(params=GATES.names())
def name(request) -> str:
    return request.param


@pytest.fixture
def trained(name, digits) -> Attached:
    each = attached(name)
    train(each.model, digits, Plan(epochs=2, batch=16), gate=each.gate)
    scores(each.gate, each.model)
    return each


def test_it_leaves_no_trace_when_it_is_folded(trained):
    found, model, build = trained
    before = build()
    found.fold(model)
    assert list(model.state_dict()) == list(before.state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any("forward" in vars(m) for m in model.modules())
    assert [set(vars(m)) for m in model.modules()] == [set(vars(m)) for m in before.modules()]
    pickle.dumps(model)


def test_folding_keeps_the_outputs_or_puts_the_network_back(trained):
    found, model, build = trained
    gated = model.eval()(some_inputs())
    found.fold(model)
    if found.restores:
        before = build().state_dict()
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    else:
        torch.testing.assert_close(model(some_inputs()), gated, rtol=1e-5, atol=1e-5)


def test_names_of_the_network_stay_while_it_is_attached(name):
    _, model, build = attached(name)
    assert set(build().state_dict()) <= set(model.state_dict())
    assert list(prunable(model)) == list(prunable(build()))


def test_scores_are_of_its_units_in_layers_that_may_be_pruned(trained):
    found, model, _ = trained
    worth, layers = found.scores(model), dict(prunable(model))
    assert worth
    if found.unit == "weight" and found.own_units(model) is not None:
        layers = dict(model.named_parameters())  # it may be what no other method cuts
    assert set(worth) <= set(layers)
    for weight, values in worth.items():
        shape = layers[weight].shape
        assert values.shape == (shape[:1] if found.unit == "channel" else shape)
        assert bool(torch.isfinite(values).all())
        assert not values.requires_grad
    if found.own_units(model) is not None:
        return
    if found.unit == "weight":
        assert set(worth) == set(layers)
    else:
        assert set(worth) >= {"0.weight", "3.weight"}
        assert list(layers)[-1] not in worth  # the output of the network


def test_scores_of_layers_become_scores_of_the_units_of_all_groups(trained):
    found, model, build = trained
    worth, own = found.scores(model), found.own_units(model)
    if found.unit == "weight" and own is None:
        with pytest.raises(UserError, match="units of its own"):
            found.removed(model, find_groups(build(), some_inputs()[:2]), {})
        return
    groups = own if own is not None else find_groups(build(), some_inputs()[:2])
    units = by_unit(groups, worth)
    for group in groups.free:
        if f"{group.name}.weight" in worth:
            torch.testing.assert_close(units[group.name], worth[f"{group.name}.weight"])
    if own is not None:
        assert set(units) == {group.name for group in own.free}


def test_its_variables_are_parameters_of_the_model(name):
    found, model, _ = attached(name)
    parameters = dict(model.named_parameters())
    assert all(parameters[k] is v for k, v in found.variables(model).items())


def test_a_copy_learns_reads_and_folds_like_the_original(trained, digits):
    found, model, _ = trained
    twin = copy.deepcopy(model)
    third = pickle.load(io.BytesIO(pickle.dumps(model)))
    every = (model, twin, third)
    for each in every:
        train(each, digits, Plan(epochs=1, batch=16), gate=found)
    worth = [scores(found, m) for m in every]
    for each in every:
        found.fold(each)
    for scored, each in zip(worth[1:], every[1:], strict=True):
        assert all(torch.equal(worth[0][k], scored[k]) for k in worth[0])
        assert all(torch.equal(v, each.state_dict()[k]) for k, v in model.state_dict().items())


def test_a_copy_is_a_network_of_its_own(trained):
    found, model, _ = trained
    twin = copy.deepcopy(model)
    before = model.eval()(some_inputs())
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert not torch.equal(twin.eval()(some_inputs()), before)
    assert torch.equal(model(some_inputs()), before)
    found.fold(twin)
    assert torch.equal(model(some_inputs()), before)


def test_its_state_loads_into_another_network_to_which_it_was_attached(trained, name):
    found, model, _ = trained
    again, other, _ = attached(name)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.scores(other), found.scores(model))
    torch.testing.assert_close(other.eval()(some_inputs()), model.eval()(some_inputs()))
    found.fold(model)
    again.fold(other)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())


class Stop(Exception):
    pass


@pytest.mark.parametrize("flat", [True, False])
def test_a_resumed_training_is_the_uninterrupted_one(name, flat, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("thrifty.training.stepper.FLAT_BELOW", 10**9 if flat else 0)
    plan = Plan(epochs=4, batch=16, clip=1.0)
    found, straight, _ = attached(name)
    held, weight = list(prunable(straight).items())[1]
    masked = {held: torch.rand(weight.shape, generator=torch.Generator().manual_seed(2)) > 0.5}
    train(straight, digits, plan, gate=found, masks=masked)
    zeros = straight.get_parameter(held)[~masked[held]]
    assert bool((zeros.view(torch.int32) == 0).all())

    told = tmp_path / "checkpoint.pt"
    _, broken, _ = attached(name)
    real, calls = type(found).after_step, []

    def dying(self, *args):
        calls.append(1)
        if len(calls) == 2 * 4 + 2:
            raise Stop
        real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(type(found), "after_step", dying)
        with pytest.raises(Stop):
            train(
                broken, digits, plan, gate=found, masks=masked,
                checkpoint=told, checkpoint_seconds=0,
            )  # fmt: skip
    found, again, _ = attached(name)
    log = train(
        again, digits, plan, gate=found, masks=masked, checkpoint=told, checkpoint_seconds=0
    )
    assert len(log.epochs) == 4
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in straight.state_dict().items())


def test_its_penalty_does_something(name, digits):
    """It lowers scores, or variables where scores are only relative to each other.

    What it pulls to 0 or 1 gets nearer to one of them.
    """
    sizes = []
    for strength in (0.05, 0.0):
        found, model, _ = attached(name, strength=strength)
        train(model, digits, Plan(epochs=3, batch=16, weight_decay=0), gate=found)
        worth: dict[str, torch.Tensor] = scores(found, model)
        if found.unit == "channel" and found.own_units(model) is None:
            worth = {k: v.detach().abs() for k, v in found.variables(model).items()}
        if isinstance(found, Shortcuts):
            worth = {k: torch.minimum(v, (1 - v).abs()) for k, v in worth.items()}
        sizes.append(sum(float(v.sum()) for v in worth.values()))
    assert sizes[0] < sizes[1]


def test_a_threshold_is_a_number_on_the_scale_of_scores_or_refused_with_a_reason(name):
    found = attached(name).gate
    try:
        assert isinstance(found.cutoff(0.5), float)
    except UserError as error:
        assert "threshold" in str(error)
    for wrong in (float("nan"), float("inf"), -1e9, 1e9):
        with pytest.raises(UserError, match="threshold"):
            found.cutoff(wrong)


def test_it_is_documented_with_its_source(name):
    assert GATES.summary(name)
    assert "http" in (GATES.get(name).__doc__ or "")


@pytest.mark.parametrize("average", [None, "ema?decay=.9", "swa?start=.5"])
def test_it_trains_in_bfloat16_and_with_averages(name, average, digits):
    found, model, _ = attached(name)
    plan = Plan(epochs=2, batch=16, precision="bf16", average=average, cutmix=1.0)
    log = train(model, digits, plan, gate=found)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(bool(torch.isfinite(v).all()) for v in scores(found, model).values())
    found.fold(model)
    assert bool(torch.isfinite(model(some_inputs())).all())
    assert log.epochs[-1]["loss"] > 0

"""What holds for every gate in the registry, those of other packages included."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from thrifty.channels.finding import groups as find_groups
from thrifty.data import load_data
from thrifty.errors import UserError
from thrifty.pruning import prunable
from thrifty.pruning.gates import GATES, Gate, gate
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


def attached(name: str, **options: object) -> tuple[Gate, nn.Module]:
    """A network that the gate takes, with the gate in it."""
    for norms in (False, True):
        model = network(norms)
        found = gate(name, groups=find_groups(model, torch.randn(2, 1, 8, 8)), **options)
        try:
            found.attach(model)
        except UserError:
            continue
        return found, model
    raise AssertionError(f"{name} takes no network of these")


def some_inputs() -> torch.Tensor:
    return torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=GATES.names())
def name(request) -> str:
    return request.param


@pytest.fixture
def trained(name, digits) -> tuple[Gate, nn.Module]:
    found, model = attached(name)
    train(model, digits, Plan(epochs=2, batch=16), gate=found)
    return found, model


def test_it_leaves_no_trace_when_it_is_folded(trained):
    found, model = trained
    before = network(any(isinstance(m, nn.BatchNorm2d) for m in model)).state_dict()
    found.fold(model)
    assert list(model.state_dict()) == list(before)
    assert [type(m) for m in model.modules()] == [type(m) for m in network(False).modules()] or (
        [type(m) for m in model.modules()] == [type(m) for m in network(True).modules()]
    )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    pickle.dumps(model)


def test_folding_keeps_the_outputs_or_puts_the_network_back(trained, name):
    found, model = trained
    gated = model.eval()(some_inputs())
    found.fold(model)
    if found.restores:
        assert all(
            torch.equal(v, network(False).state_dict()[k]) for k, v in model.state_dict().items()
        )
    else:
        torch.testing.assert_close(model(some_inputs()), gated, rtol=1e-5, atol=1e-5)


def test_names_of_the_network_stay_while_it_is_attached(name):
    _, model = attached(name)
    norms = any(isinstance(m, nn.BatchNorm2d) for m in model)
    assert set(network(norms).state_dict()) <= set(model.state_dict())
    assert list(prunable(model)) == list(prunable(network(norms)))


def test_scores_are_by_channel_of_the_layers_that_make_them(trained):
    found, model = trained
    scores = found.scores(model)
    layers = prunable(model)
    assert scores
    assert set(scores) <= set(layers)
    for weight, values in scores.items():
        assert values.shape == layers[weight].shape[:1]
        assert bool(torch.isfinite(values).all())
        assert not values.requires_grad
    assert set(scores) >= {"0.weight", "3.weight"}
    assert list(prunable(model))[-1] not in scores  # the output of the network


def test_scores_of_layers_become_scores_of_the_units_of_all_groups(trained):
    found, model = trained
    scores = found.scores(model)
    groups = find_groups(network(False), torch.randn(2, 1, 8, 8))
    units = by_unit(groups, scores)
    for group in groups.free:
        if f"{group.name}.weight" in scores:
            torch.testing.assert_close(units[group.name], scores[f"{group.name}.weight"])


def test_its_variables_are_parameters_of_the_model(name):
    found, model = attached(name)
    parameters = dict(model.named_parameters())
    variables = found.variables(model)
    assert variables
    assert all(parameters[k] is v for k, v in variables.items())


def test_a_copy_learns_reads_and_folds_like_the_original(trained, digits):
    found, model = trained
    twin = copy.deepcopy(model)
    other = io.BytesIO(pickle.dumps(model))
    third = pickle.load(other)
    for each in (model, twin, third):
        train(each, digits, Plan(epochs=1, batch=16), gate=found)
    scores = [found.scores(m) for m in (model, twin, third)]
    for each in (model, twin, third):
        found.fold(each)
    for scored, each in zip(scores[1:], (twin, third), strict=True):
        assert all(torch.equal(scores[0][k], scored[k]) for k in scores[0])
        assert all(torch.equal(v, each.state_dict()[k]) for k, v in model.state_dict().items())


def test_its_state_loads_into_another_network_to_which_it_was_attached(trained, name):
    found, model = trained
    again, other = attached(name)
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
    masked = {"3.weight": torch.rand(5, 6, 3, 3, generator=torch.Generator().manual_seed(2)) > 0.5}
    found, straight = attached(name)
    train(straight, digits, plan, gate=found, masks=masked)
    assert bool((straight[3].weight[~masked["3.weight"]].view(torch.int32) == 0).all())

    told = tmp_path / "checkpoint.pt"
    _, broken = attached(name)
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
    found, again = attached(name)
    log = train(
        again, digits, plan, gate=found, masks=masked, checkpoint=told, checkpoint_seconds=0
    )
    assert len(log.epochs) == 4
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in straight.state_dict().items())


def test_its_penalty_does_something(name, digits):
    found, pulled = attached(name, strength=0.05)
    idle, free = attached(name, strength=0.0)
    for each, model in ((found, pulled), (idle, free)):
        train(model, digits, Plan(epochs=3, batch=16, weight_decay=0), gate=each)
    sizes = [
        sum(float(v.detach().abs().sum()) for v in found.variables(model).values())
        for model in (pulled, free)
    ]
    assert sizes[0] < sizes[1]


def test_it_is_documented_with_its_source(name):
    assert GATES.summary(name)
    assert "http" in (GATES.get(name).__doc__ or "")

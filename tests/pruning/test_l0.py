"""L0 gates: how often they are open, what that costs, and exact zeros where they are shut."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from thrifty.channels.finding import groups as find_groups
from thrifty.data import load_data
from thrifty.errors import UserError
from thrifty.nets import resolve
from thrifty.pruning.gates import gate
from thrifty.pruning.gates.hard_concrete import chance, sampled, settled
from thrifty.training.loop import train
from thrifty.training.plan import Plan

WHERE = torch.tensor([-4.0, -2.5, -1.6, 0.0, 1.0, 2.2, 5.0])

SHUT = 1 / (1 + math.exp(-math.log(0.1 / 1.1) / 3))
"""The chance of being open at which a gate without noise shuts: 0.31."""


@pytest.fixture(scope="module")
def digits():
    return load_data("digits?train=600&test=200")


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def convolutions(norms: bool) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8) if norms else nn.Identity(), nn.ReLU(),
        nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6) if norms else nn.Identity(), nn.ReLU(),
        nn.Flatten(), nn.Linear(96, 12), nn.ReLU(), nn.Linear(12, 10),
    )  # fmt: skip


# ---- the distribution


def test_gates_are_open_as_often_as_their_chance_says_and_lie_in_zero_to_one():
    torch.manual_seed(0)
    drawn = sampled(WHERE.expand(50_000, -1))
    assert float(drawn.min()) == 0.0
    assert float(drawn.max()) == 1.0
    share = (drawn != 0).float().mean(0)
    torch.testing.assert_close(share, chance(WHERE), rtol=0, atol=5 * 0.5 / math.sqrt(50_000))
    assert bool(((drawn == 1).float().mean(0)[-2:] > 0.3).all())


def test_a_gate_without_noise_is_shut_below_a_chance_of_three_tenths_and_open_above_the_rest():
    assert settled(WHERE).tolist()[:2] == [0.0, 0.0]
    assert settled(WHERE)[-1] == 1.0
    edge = math.log(0.1 / 1.1)
    assert float(settled(torch.tensor(edge - 1e-3))) == 0.0
    assert float(settled(torch.tensor(edge + 1e-3))) > 0.0
    assert float(chance(torch.tensor(edge))) == pytest.approx(SHUT)


def test_gates_have_finite_gradients_wherever_they_are():
    where = torch.linspace(-200, 200, 4001).requires_grad_()
    torch.manual_seed(0)
    (sampled(where) + chance(where) + settled(where)).sum().backward()
    assert bool(torch.isfinite(where.grad).all())


def test_a_stack_of_networks_draws_gates_of_its_own():
    drawn = vmap(sampled, randomness="different")(WHERE.expand(3, 2, -1))
    assert drawn.shape == (3, 2, len(WHERE))
    assert not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(vmap(chance)(WHERE.expand(3, -1))[1], chance(WHERE))


# ---- single weights


def spread(model: nn.Module) -> None:
    """In place: locations of all gates over all that matters."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "log_alpha" in name:
            parameter.data = torch.randn_like(parameter) * 3


LAYERS = [
    nn.Linear(6, 5),
    nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2),
    nn.Conv2d(3, 4, 3, padding="same", dilation=2, bias=False),
    nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"),
    nn.Conv3d(2, 3, 2, padding=1),
]


def inputs_of(layer: nn.Module, count: int = 3) -> Tensor:
    torch.manual_seed(2)
    if isinstance(layer, nn.Linear):
        return torch.randn(count, layer.in_features)
    return torch.randn(count, layer.in_channels, *[5] * len(layer.kernel_size))


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_folding_writes_the_weights_that_evaluation_computes_with(layer):
    model = nn.Sequential(copy.deepcopy(layer))
    found = gate("l0", inputs=100)
    found.attach(model)
    spread(model)
    gates = settled(model[0].weight_gate.log_alpha)
    before = model.eval()(inputs_of(layer))
    scores = found.scores(model)["0.weight"]
    found.fold(model)
    assert torch.equal(model[0].weight, layer.weight * gates)
    assert torch.equal(model[0].weight == 0, gates == 0)
    assert torch.equal(scores > found.cutoff(SHUT), gates > 0)
    assert not bool(torch.signbit(model[0].weight[gates == 0]).any())
    assert torch.equal(model(inputs_of(layer)), before)


def test_training_draws_gates_anew_in_every_step_and_evaluation_none():
    model = linear()
    gate("l0?rate=0.5", inputs=10).attach(model)
    inputs = torch.randn(2, 1, 8, 8)
    assert not torch.equal(model.train()(inputs), model(inputs))
    assert torch.equal(model.eval()(inputs), model(inputs))


def test_a_trained_network_hardly_changes_when_gates_are_put_in():
    model = linear()
    inputs = torch.randn(5, 1, 8, 8)
    before = model(inputs)
    gate("l0", inputs=10).attach(model)
    torch.testing.assert_close(model.eval()(inputs), before * 0.98**2, rtol=0.1, atol=0.02)


def test_the_penalty_is_the_price_of_the_expected_number_of_open_weights():
    model = linear()
    found = gate("l0?strength=0.3&rate=0.2", inputs=50)
    found.attach(model)
    count = 64 * 32 + 32 * 10
    expected = 0.3 / 50 * count * float(chance(torch.tensor(math.log(0.8 / 0.2))))
    assert float(found.penalty(model, 0.5).detach()) == pytest.approx(expected)
    assert gate("l0?strength=0", inputs=50).penalty(model, 0.5) is None


def test_a_weight_that_is_zero_is_worth_nothing():
    model = linear()
    found = gate("l0", inputs=50)
    found.attach(model)
    with torch.no_grad():
        model[1].weight[3] = 0.0
    scores = found.scores(model)["1.weight"]
    assert not bool(scores[3].any())
    assert float(scores[:3].min()) > 0.5


def test_a_training_shuts_gates_and_stays_right(digits):
    model = linear()
    found = gate("l0?strength=3", inputs=600)
    found.attach(model)
    plan = Plan(epochs=40, batch=50, optimizer="adam", lr=0.02, weight_decay=0)
    train(model, digits, plan, gate=found)
    found.fold(model)
    zeros = sum(int((m.weight == 0).sum()) for m in model if isinstance(m, nn.Linear))
    assert zeros > 0.25 * (64 * 32 + 32 * 10)
    outputs = model(digits.prepare(digits.test.inputs))
    assert float((outputs.argmax(1) == digits.test.labels).float().mean()) > 0.8


# ---- channels


@pytest.mark.parametrize("norms", [False, True])
def test_a_shut_channel_sends_nothing_before_and_after_folding(norms):
    model = convolutions(norms)
    example = torch.randn(4, 1, 8, 8)
    found = gate("l0_channels", groups=find_groups(model, example), inputs=100)
    found.attach(model)
    spread(model)
    site = model[1] if norms else model[0]
    shut = settled(site.l0_log_alpha) == 0
    assert 0 < int(shut.sum()) < 8
    if norms:
        model[1].bias.data.fill_(0.7)
    after = {}
    model[2].register_forward_hook(lambda module, args, out: after.update(out=out))
    before = model.eval()(example)
    assert not bool(after["out"][:, shut].any())
    scores = found.scores(model)
    assert torch.equal(scores["0.weight"] > found.cutoff(SHUT), ~shut)
    found.fold(model)
    torch.testing.assert_close(model(example), before, rtol=1e-5, atol=1e-6)
    assert not bool(after["out"][:, shut].any())
    assert set(scores) == {"0.weight", "3.weight", "7.weight"}


def test_gates_of_a_residual_network_are_scored_by_the_layers_that_make_the_channels(digits):
    torch.manual_seed(0)
    model = resolve("resnet20?width=0.25", classes=10, shape=(1, 8, 8))
    groups = find_groups(model, torch.randn(2, 1, 8, 8))
    found = gate("l0_channels?strength=1", groups=groups, inputs=600)
    found.attach(model)
    behind = {n.rpartition(".")[0] for n in found.variables(model)}
    assert all(isinstance(model.get_submodule(n), nn.BatchNorm2d) for n in behind)
    train(model, digits, Plan(epochs=1, batch=100), gate=found)
    scores = found.scores(model)
    assert {f"{g.name}.weight" for g in groups.free} <= set(scores)
    inputs = digits.prepare(digits.test.inputs[:8])
    before = model(inputs)
    found.fold(model)
    torch.testing.assert_close(model(inputs), before, rtol=1e-4, atol=1e-5)


def test_the_price_of_a_channel_is_that_of_the_weights_behind_its_gate():
    model = convolutions(False)
    found = gate("l0_channels?strength=2", inputs=100)
    found.attach(model)
    count = 8 * 9 + 6 * 8 * 9 + 12 * 96
    p = float(chance(torch.tensor(math.log(9.0))))
    assert float(found.penalty(model, 0.0).detach()) == pytest.approx(0.02 * count * p)


def test_every_input_of_a_batch_draws_channels_of_its_own():
    for layer, inputs in (
        (nn.Conv2d(1, 3, 3, padding=1), torch.ones(64, 1, 5, 5)),
        (nn.Linear(4, 3), torch.ones(64, 4)),
        (nn.Linear(4, 3), torch.ones(64, 7, 4)),
    ):
        model = nn.Sequential(layer, nn.Linear(5 if inputs.dim() == 4 else 3, 2))
        gate("l0_channels?rate=0.5", inputs=10).attach(model)
        out = model[0].train()(inputs).detach()
        plain = type(layer).forward(layer, inputs).detach()
        gates = out / plain
        per = gates.movedim(1 if inputs.dim() == 4 else -1, 1).reshape(64, 3, -1)
        torch.testing.assert_close(per.amax(2), per.amin(2))  # one gate an input and channel
        assert len(per[:, 0, 0].unique()) > 20
        assert torch.equal(type(layer).forward(layer, inputs), plain)
    alone = model[0].train()(torch.ones(4))
    assert alone.shape == (3,)


def test_a_training_shuts_whole_channels(digits):
    model = convolutions(False)
    found = gate("l0_channels?strength=0.3&rate=0.3", inputs=600)
    found.attach(model)
    plan = Plan(epochs=40, batch=50, optimizer="adam", lr=0.02, weight_decay=0)
    train(model, digits, plan, gate=found)
    scores = found.scores(model)
    assert min(float(v.min()) for v in scores.values()) < 0.3
    assert max(float(v.max()) for v in scores.values()) > 0.8
    outputs = model(digits.prepare(digits.test.inputs))
    assert float((outputs.argmax(1) == digits.test.labels).float().mean()) > 0.7


# ---- what is refused


@pytest.mark.parametrize("name", ["l0", "l0_channels"])
def test_options_that_mean_nothing_are_refused(name):
    for option, said in (
        ("strength=-1", "strength=-1"),
        ("rate=0", "rate=0"),
        ("rate=1", "between 0 and 1"),
        ("inputs=none", "inputs='none'"),
    ):
        with pytest.raises(UserError, match=said):
            gate(f"{name}?{option}")
    model = convolutions(False)
    before = list(model.state_dict())
    with pytest.raises(UserError, match="give inputs="):
        gate(name).attach(model)
    assert list(model.state_dict()) == before


@pytest.mark.parametrize("name", ["l0", "l0_channels"])
def test_a_threshold_is_a_probability(name):
    found = gate(name, inputs=10)
    assert found.cutoff(0) == 0.0
    assert found.cutoff(1) == 1.0
    for wrong in (-0.1, 1.1, 50, math.nan):
        with pytest.raises(UserError, match="threshold"):
            found.cutoff(wrong)


@pytest.mark.parametrize("name", ["l0", "l0_channels"])
def test_a_gate_that_diverged_names_the_layer_and_changes_nothing(name):
    model = convolutions(False)
    found = gate(name, inputs=10)
    found.attach(model)
    where = found.variables(model)
    next(p for n, p in where.items() if n.startswith("3.")).data.view(-1)[0] = math.nan
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for call in (found.scores, found.fold):
        with pytest.raises(UserError, match="of the gates of 3 are NaN"):
            call(model)
    assert all(torch.equal(v.nan_to_num(), before[k].nan_to_num()) for k, v in
               model.state_dict().items())  # fmt: skip


def test_channels_behind_norms_need_groups_to_find_the_norms():
    with pytest.raises(UserError, match=r"1 is a BatchNorm2d.*groups="):
        gate("l0_channels", inputs=10).attach(convolutions(True))


def test_a_second_gate_is_refused():
    model = convolutions(False)
    found = gate("l0_channels", inputs=10)
    found.attach(model)
    with pytest.raises(UserError, match="fold the gate"):
        found.attach(model)
    found.fold(model)
    found.attach(model)

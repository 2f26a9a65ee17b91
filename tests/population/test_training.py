"""Training a stack: engines agree, it goes on bit for bit, no model touches another."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from thrifty.data import Data, Split, load_data
from thrifty.errors import UserError
from thrifty.native import lanes
from thrifty.native.lanes import Noise
from thrifty.population.lanes_engine import unfit
from thrifty.population.plan import Plan
from thrifty.population.stack import born
from thrifty.population.training import choose, engine_of, train_population

SPEC = "zoo_cnn_s?width=0.5&act=tanh"
compiled = pytest.mark.skipif(not lanes.available(), reason="the lanes are not compiled")
ENGINES = [pytest.param("lanes", marks=compiled), "stacked", "single"]

OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "momentum": 0.0},
    "momentum": {"optimizer": "sgd", "momentum": 0.9},
    "nesterov": {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    "adam": {"optimizer": "adam"},
    "adamw": {"optimizer": "adamw"},
    "warm cosine": {"optimizer": "adam", "schedule": "cosine", "warmup": 0.2},
    "one order": {"optimizer": "adam", "shared_order": True},
}


@pytest.fixture(scope="module")
def data():
    return load_data("digits?train=120&test=40")


def a_stack(data, count=3, spec=SPEC, **columns):
    said = {"lr": 0.01, "weight_decay": 0.01} | columns
    return born([spec] * count, data.shape, data.classes, list(range(count)), **said)


def same(a, b):
    return all(torch.equal(x, b.tensors[name]) for name, x in a.tensors.items())


@compiled
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_engines_agree_up_to_rounding(name, data):
    start = a_stack(data, lr=[0.01, 0.003, 0.001], weight_decay=[0.0, 0.01, 0.1])
    mask = start.tensors["conv2.weight"].abs() > 0.1
    start = replace(start, masks={"conv2.weight": mask})
    lanes_, *others = (
        train_population(start, data, Plan(epochs=2, engine=engine, **OPTIMIZERS[name]))
        for engine in ("lanes", "stacked", "single")
    )
    for found in others:
        for tensor, x in lanes_.stack.tensors.items():
            torch.testing.assert_close(x, found.stack.tensors[tensor], rtol=2e-3, atol=2e-4)
        for one, other in zip(lanes_.history, found.history, strict=True):
            np.testing.assert_allclose(one.loss, other.loss, rtol=1e-4)
            np.testing.assert_allclose(one.accuracy, other.accuracy, atol=0.02)


@compiled
def test_the_engines_judge_alike(data):
    start = a_stack(data)
    one, *others = (
        engine_of(start, data, Plan(engine=engine))[0].judge(data.test)
        for engine in ("lanes", "stacked", "single")
    )
    for other in others:
        np.testing.assert_allclose(one.loss, other.loss, rtol=1e-5)
        assert np.array_equal(one.classes, other.classes)
        assert np.array_equal(one.accuracy, other.accuracy)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("engine", ENGINES)
def test_two_calls_end_where_one_would_have(engine, dropout, data):
    spec = SPEC + (f"&dropout={dropout}" if dropout else "")
    start = a_stack(data, spec=spec, dropout=dropout)
    plan = Plan(epochs=3, engine=engine, schedule="cosine", batch=7)
    whole = train_population(start, data, plan)
    half = train_population(start, data, plan, last=1)
    rest = train_population(half.stack, data, plan, first=1, moments=half.moments)
    assert same(whole.stack, rest.stack)
    assert len(half.history) == 1
    assert np.array_equal(whole.history[-1].loss, rest.history[-1].loss)


@compiled
def test_variational_dropout_goes_on_bit_for_bit(data):
    start = a_stack(data)
    start = replace(start, spread={n: torch.full_like(x, -6.0) for n, x in start.tensors.items()})
    noise, plan = Noise(divergence=0.001, biases=True), Plan(epochs=2)
    whole = train_population(start, data, plan, noise=noise)
    half = train_population(start, data, plan, last=1, noise=noise)
    rest = train_population(half.stack, data, plan, first=1, moments=half.moments, noise=noise)
    assert same(whole.stack, rest.stack)
    assert all(torch.equal(x, rest.stack.spread[n]) for n, x in whole.stack.spread.items())
    assert not torch.equal(whole.stack.spread["fc1.weight"], start.spread["fc1.weight"])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_that_diverges_is_flagged_and_touches_no_other(engine, data):
    spec = SPEC.replace("tanh", "relu")
    plan = Plan(epochs=1, engine=engine, optimizer="sgd")
    calm = train_population(a_stack(data, spec=spec, lr=0.01), data, plan)
    wild = train_population(a_stack(data, spec=spec, lr=[0.01, 1e20, 0.01]), data, plan)
    assert wild.diverged.tolist() == [False, True, False]
    assert not calm.diverged.any()
    for name, x in calm.stack.tensors.items():
        assert torch.equal(x[[0, 2]], wild.stack.tensors[name][[0, 2]])


@pytest.mark.parametrize("name", ["nesterov", "adam", "adamw"])
@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_masked_stays_exactly_zero(engine, name, data):
    start = a_stack(data)
    mask = torch.rand(start.tensors["fc1.weight"].shape) < 0.3
    plan = Plan(epochs=1, engine=engine, **OPTIMIZERS[name])
    found = train_population(replace(start, masks={"fc1.weight": mask}), data, plan)
    weights = found.stack.tensors["fc1.weight"]
    assert (weights[~mask] == 0).all()
    assert (weights[mask] != 0).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_training_lowers_the_loss_and_tells_of_every_epoch(engine, data):
    told = []
    plan = Plan(epochs=6, engine=engine)
    found = train_population(a_stack(data), data, plan, tell=told.append)
    assert (found.history[-1].loss < 0.8 * found.history[0].loss).all()
    assert [event["epoch"] for event in told] == [1, 2, 3, 4, 5, 6]
    assert found.engine.name == engine


@pytest.mark.parametrize("engine", ENGINES)
def test_no_epochs_leave_the_models_as_they_are(engine, data):
    start = a_stack(data)
    found = train_population(start, data, Plan(epochs=0, engine=engine))
    assert same(start, found.stack)
    assert found.history == ()


@compiled
def test_a_model_does_not_depend_on_those_beside_it(data):
    plan = Plan(epochs=1, engine="lanes")
    many = a_stack(data, count=19)
    whole = train_population(many, data, plan, threads=2)
    alone = train_population(many[[17]], data, plan)
    assert same(whole.stack[[17]], alone.stack)


@compiled
def test_small_chains_are_trained_in_lanes_and_the_reason_is_said(data):
    chosen = choose(a_stack(data), data, Plan())
    assert chosen.name == "lanes"
    assert "chain of small layers" in chosen.why


def floating(data):
    def split(s):
        return Split(s.inputs.float() / 255, s.labels)

    return Data("floats", split(data.train), split(data.test), 10, data.mean, data.std)


def test_inputs_that_are_no_bytes_are_trained_in_torch_and_the_reason_is_said(data):
    floats = floating(data)
    chosen = choose(a_stack(data), floats, Plan())
    assert chosen.name == "stacked"
    assert "the inputs are no bytes" in chosen.why or "not installed" in chosen.why
    train_population(a_stack(data), floats, Plan(epochs=1, batch=40))


@compiled
def test_large_networks_do_not_fit_the_lanes(data):
    large = a_stack(data, count=1, spec="zoo_cnn_l?width=4")
    assert "more than 60,000" in unfit(large, data)
    chosen = choose(large, data, Plan())
    assert chosen.name == "single" and "more than 50,000" in chosen.why


@pytest.mark.parametrize(
    ("spec", "engine", "said"),
    [
        ("zoo_cnn_l?width=4", "lanes", "engine=lanes does not fit"),
        ("zoo_cnn_s?width=0.5&dropout=0.1", "stacked", "different rates of dropout"),
    ],
)
def test_an_engine_that_cannot_is_refused_with_the_reason(spec, engine, said, data):
    start = a_stack(data, count=2, spec=spec, dropout=[0.1, 0.2])
    with pytest.raises(UserError, match=rf"{said}.*use engine=auto"):
        train_population(start, data, Plan(engine=engine))


def test_a_population_that_no_engine_can_train_is_refused_with_both_reasons(data):
    start = a_stack(data)
    start = replace(start, model="lenet", spread=dict(start.tensors))
    with pytest.raises(UserError, match=r"cannot be trained: .* no bytes; .* is a gate; .* gate"):
        train_population(start, floating(data), Plan(), noise=Noise())


def test_a_stack_of_no_models_is_refused(data):
    with pytest.raises(UserError, match="has no models; give one at least"):
        train_population(a_stack(data)[[]], data, Plan())


def test_noise_without_spread_is_refused(data):
    with pytest.raises(UserError, match="needs both spread in the stack and its noise"):
        train_population(a_stack(data), data, Plan(), noise=Noise())

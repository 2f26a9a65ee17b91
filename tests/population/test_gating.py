"""Gates on a stack: engines agree, goes on bit for bit, and what is folded is what was judged."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from thrifty.data import load_data
from thrifty.errors import UserError
from thrifty.population.gating import Gating, begun, folded
from thrifty.population.plan import Plan
from thrifty.population.stack import born
from thrifty.population.training import choose, engine_of, train_population
from thrifty.pruning.gates import gate

SPEC = "zoo_cnn_s?width=0.5&act=tanh"
GATES = {
    "l0": {"strength": 1.0},
    "str": {"strength": 0.1, "init": -3.0},
    "variational": {"preset": "elbo"},
    "variational zoo": {"preset": "zoo"},
}


@pytest.fixture(scope="module")
def data():
    return load_data("digits?train=120&test=40")


def a_gating(name, data, **said):
    given = GATES[name] | said
    return Gating(gate(name.partition(" ")[0], inputs=len(data.train), epochs=3, **given), 3)


def a_stack(data, gating, count=3, spec=SPEC, **columns):
    said = {"lr": 0.01, "weight_decay": 1e-3} | columns
    start = born([spec] * count, data.shape, data.classes, list(range(count)), **said)
    return begun(start, gating)


def same(a, b):
    return all(torch.equal(x, b[name]) for name, x in a.items())


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("engine", ["stacked", "single"])
def test_gates_learn_and_training_goes_on_bit_for_bit(engine, name, data):
    gating = a_gating(name, data)
    start, plan = a_stack(data, gating), Plan(epochs=3, engine=engine)
    whole = train_population(start, data, plan, gating=gating)
    half = train_population(start, data, plan, last=1, gating=gating)
    rest = train_population(half.stack, data, plan, first=1, moments=half.moments, gating=gating)
    assert same(whole.stack.tensors, rest.stack.tensors)
    assert same(whole.stack.gates, rest.stack.gates)
    for variable, x in start.gates.items():
        assert (x != whole.stack.gates[variable]).any(), variable
    assert (whole.history[-1].loss < whole.history[0].loss).all()


@pytest.mark.parametrize("batch", [10, 40])
def test_engines_agree_on_a_gate_that_draws_nothing(batch, data):
    gating = a_gating("str", data)
    start = a_stack(data, gating, lr=[0.01, 0.003, 0.001])
    one, other = (
        train_population(start, data, Plan(epochs=2, batch=batch, engine=e), gating=gating).stack
        for e in ("stacked", "single")
    )
    for a, b in ((one.tensors, other.tensors), (one.gates, other.gates)):
        for name, x in a.items():
            torch.testing.assert_close(x, b[name], rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("engine", ["stacked", "single"])
def test_what_is_folded_has_zeros_and_answers_as_the_gated_models_do(engine, name, data):
    gating = a_gating(name, data)
    start = a_stack(data, gating)
    found, _ = engine_of(start, data, Plan(engine=engine), gating=gating)
    found.epoch(0)
    now = found.stack()
    tensors, masks = folded(now, gating, data)
    assert all((tensors[n][~mask] == 0).all() for n, mask in masks.items())
    assert set(masks) == {n for n in tensors if n.endswith(".weight")}
    plain = replace(now, tensors=tensors, gates={})
    judged = found.judge(data.test)
    again = engine_of(plain, data, Plan(engine=engine))[0].judge(data.test)
    np.testing.assert_allclose(judged.loss, again.loss, rtol=1e-5)
    assert np.array_equal(judged.classes, again.classes)


def test_a_high_price_shuts_gates_that_a_low_one_leaves_open(data):
    left = []
    for strength in (1e-6, 3.0):
        gating = a_gating("str", data, strength=strength)
        start = a_stack(data, gating, lr=0.03)
        found = train_population(start, data, Plan(epochs=3, engine="stacked"), gating=gating)
        _, masks = folded(found.stack, gating, data)
        left.append(sum(int(mask.sum()) for mask in masks.values()))
    assert left[1] < 0.9 * left[0]


def test_a_model_that_diverged_keeps_its_numbers_and_the_others_are_folded(data):
    gating = a_gating("l0", data)
    now = a_stack(data, gating)
    name = next(iter(now.gates))
    now.gates[name][1] = float("nan")
    now.tensors["fc1.weight"][1] = float("nan")
    tensors, masks = folded(now, gating, data)
    assert tensors["fc1.weight"][1].isnan().all() and masks["fc1.weight"][1].all()
    assert tensors["fc1.weight"][[0, 2]].isfinite().all()


@pytest.mark.parametrize("engine", ["stacked", "single"])
def test_weight_decay_spares_what_a_gate_learns(engine, data):
    gating = a_gating("str", data, strength=0.0, init=-60.0)  # so far out that no gradient is left
    start = a_stack(data, gating, weight_decay=10.0)
    plan = Plan(epochs=1, optimizer="sgd", engine=engine)
    found = train_population(start, data, plan, gating=gating).stack
    assert same(start.gates, found.gates)
    assert not torch.equal(start.tensors["fc1.weight"], found.tensors["fc1.weight"])


def test_statistics_and_gates_go_together(data):
    gating = a_gating("str", data)
    start = a_stack(data, gating, 2, "resnet20?width=0.2")
    plan = Plan(epochs=1, batch=40, optimizer="sgd")
    for engine in ("stacked", "single"):
        asked = plan.model_copy(update={"engine": engine})
        found = train_population(start, data, asked, gating=gating)
        tensors, masks = folded(found.stack, gating, data)
        assert tensors["bn1.num_batches_tracked"].tolist() == [3, 3]
        assert (tensors["layer1.0.conv1.weight"][~masks["layer1.0.conv1.weight"]] == 0).all()


def test_a_gate_that_a_stack_cannot_hold_says_why_and_single_takes_it(data):
    gating = Gating(gate("bn_scale"), 2)
    start = born(["resnet20?width=0.2"], data.shape, data.classes, [0], lr=0.01)
    with pytest.raises(UserError, match=r"on channels, .* use engine=auto \(single\)"):
        choose(start, data, Plan(engine="stacked"), gating)
    assert choose(start, data, Plan(), gating).name == "single"


def test_a_gate_without_what_it_learns_is_refused(data):
    gating = a_gating("str", data)
    start = born([SPEC], data.shape, data.classes, [0])
    with pytest.raises(UserError, match="needs both what it learns in the stack"):
        train_population(start, data, Plan(), gating=gating)
    with pytest.raises(UserError, match="the lanes know no gates"):
        train_population(a_stack(data, gating), data, Plan(engine="lanes"), gating=gating)

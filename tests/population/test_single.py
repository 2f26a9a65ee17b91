"""Models one by one: residual networks with their statistics, moved pictures, threads."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from thrifty.data import load_data
from thrifty.errors import UserError
from thrifty.native.lanes import order
from thrifty.population.batches import presented, turns
from thrifty.population.plan import Plan
from thrifty.population.single_engine import draws
from thrifty.population.stack import born
from thrifty.population.training import choose, engine_of, train_population

SPEC = "resnet18_cifar?width=0.04"


@pytest.fixture(scope="module")
def data():
    return load_data("digits?train=48&test=20")


def a_stack(data, count=2, spec=SPEC, **columns):
    said = {"lr": 0.05, "weight_decay": 5e-4} | columns
    return born([spec] * count, data.shape, data.classes, list(range(count)), **said)


def a_plan(**said):
    given = {"epochs": 2, "batch": 16, "optimizer": "sgd", "schedule": "one_cycle"}
    return Plan(**given | {"engine": "single", "shift": 1, "flip": True} | said)


def same(a, b):
    return all(torch.equal(x, b.tensors[name]) for name, x in a.tensors.items())


def test_a_large_network_is_trained_alone_and_the_reason_is_said(data):
    chosen = choose(a_stack(data, 1, "resnet18_cifar?width=0.1"), data, Plan())
    assert chosen.name == "single"
    assert "parameters a model, more than 50,000: each fills a core by itself" in chosen.why


def test_one_model_by_one_is_what_torch_trains(data):
    plan = a_plan(nesterov=True, shift=0, flip=False, shared_order=True)
    start = a_stack(data, 1)
    found = train_population(start, data, plan)
    model = start.module(0).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    for epoch in range(2):
        rows = torch.from_numpy(order(0, epoch, 48)).long()
        for step, rate in enumerate(plan.rates(epoch, 3)):
            picked = rows[step * 16 : (step + 1) * 16]
            optimizer.param_groups[0]["lr"] = 0.05 * float(rate)
            optimizer.zero_grad()
            outputs = model(data.prepare(data.train.inputs[picked]))
            nn.functional.cross_entropy(outputs, data.train.labels[picked]).backward()
            optimizer.step()
    for name, x in model.state_dict().items():
        torch.testing.assert_close(found.stack.tensors[name][0], x, rtol=1e-3, atol=1e-4)


def test_single_and_stacked_agree_on_networks_with_statistics_and_moved_pictures(data):
    start = a_stack(data, 3, lr=[0.01, 0.005, 0.002])
    mask = start.tensors["layer2.0.conv1.weight"].abs() > 0.05
    start = replace(start, masks={"layer2.0.conv1.weight": mask})
    one, other = (
        train_population(start, data, a_plan(engine=engine)) for engine in ("single", "stacked")
    )
    for name, x in one.stack.tensors.items():
        torch.testing.assert_close(x, other.stack.tensors[name], rtol=5e-3, atol=1e-3)
    assert one.stack.tensors["bn1.num_batches_tracked"].tolist() == [6, 6, 6]
    assert (one.stack.tensors["layer2.0.conv1.weight"][~mask] == 0).all()
    np.testing.assert_allclose(one.history[0].loss, other.history[0].loss, rtol=1e-3)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_training_goes_on_bit_for_bit_with_statistics(precision, data):
    plan, start = a_plan(epochs=3, precision=precision), a_stack(data)
    whole = train_population(start, data, plan)
    half = train_population(start, data, plan, last=1)
    rest = train_population(half.stack, data, plan, first=1, moments=half.moments)
    assert same(whole.stack, rest.stack)
    assert whole.stack.tensors["bn1.running_mean"].any()
    assert not torch.equal(
        half.stack.tensors["bn1.running_var"], rest.stack.tensors["bn1.running_var"]
    )


def test_stacked_training_goes_on_bit_for_bit_with_statistics(data):
    plan, start = a_plan(epochs=2, engine="stacked"), a_stack(data)
    whole = train_population(start, data, plan)
    half = train_population(start, data, plan, last=1)
    rest = train_population(half.stack, data, plan, first=1, moments=half.moments)
    assert same(whole.stack, rest.stack)


def test_a_model_is_the_same_whoever_is_trained_beside_it_and_on_however_many_threads(data):
    many = a_stack(data, 3)
    alone = train_population(many[[2]], data, a_plan())
    whole = train_population(many, data, a_plan(), threads=3)
    assert same(alone.stack, whole.stack[[2]])


def test_threads_of_torch_are_as_many_after_as_before(data):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train_population(a_stack(data), data, a_plan(epochs=1), threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_networks_that_draw_are_trained_one_by_one_and_end_the_same(data):
    spec = f"{SPEC}&dropout=0.3"
    start = a_stack(data, 3, spec, dropout=[0.0, 0.3, 0.5])
    assert draws(start.template(), data)
    assert not draws(a_stack(data).template(), data)
    whole = train_population(start, data, a_plan(epochs=1), threads=3)
    for index in range(3):
        alone = train_population(start[[index]], data, a_plan(epochs=1))
        assert same(alone.stack, whole.stack[[index]])


def test_pictures_are_moved_by_the_seed_and_the_epoch(data):
    plan, rows = a_plan(), torch.arange(6)

    def seen(seed, epoch):
        return presented(data, rows, plan, turns(seed, epoch, plan))

    assert torch.equal(seen(1, 0), seen(1, 0))
    assert not torch.equal(seen(1, 0), seen(2, 0))
    assert not torch.equal(seen(1, 0), seen(1, 1))
    assert torch.equal(presented(data, rows, Plan(), None), data.prepare(data.train.inputs[rows]))
    assert turns(0, 0, Plan()) is None


def test_what_cannot_be_moved_is_refused(data):
    flat = replace(
        data,
        train=type(data.train)(data.train.inputs.flatten(1).float(), data.train.labels),
        test=type(data.test)(data.test.inputs.flatten(1).float(), data.test.labels),
        mean=(0.0,) * 64,
        std=(1.0,) * 64,
    )
    start = born(["lenet_300_100?width=0.1"], flat.shape, 10, [0])
    with pytest.raises(UserError, match="shift and flip move pictures"):
        train_population(start, flat, a_plan())


def test_what_an_engine_cannot_do_is_refused_with_those_that_can(data):
    with pytest.raises(UserError, match=r"engine=stacked .*=bf16 .* use engine=auto \(single\)"):
        train_population(a_stack(data), data, a_plan(engine="stacked", precision="bf16"))
    with pytest.raises(UserError, match=r"engine=lanes does not fit: .*do not move pictures"):
        train_population(a_stack(data), data, a_plan(engine="lanes"))


def test_an_error_in_one_model_ends_the_others(data):
    start = a_stack(data, 2)
    engine, _ = engine_of(start, data, a_plan(), threads=2)
    engine._moments["first"].pop("fc.bias")
    with pytest.raises(KeyError):
        engine.epoch(0)

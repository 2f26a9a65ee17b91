"""Averages are what their rules say, as sparse as the network, and what a training ends with."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from thrifty.lab.measure import judge
from thrifty.pruning import Budget, Cut, cut
from thrifty.training.averaging import Average, rule_of
from thrifty.training.loop import train
from thrifty.training.plan import Plan
from thrifty.training.recovery import recalibrate


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(216, 3),
    )


def walked(spec: str, values: list[float], steps: int, dtype: torch.dtype = torch.float32) -> float:
    """The average of a weight that has these values, one after each step."""
    model = nn.Linear(1, 1, bias=False).to(dtype)
    with torch.no_grad():
        model.weight.fill_(5.0)
        average = Average(spec, model, steps, len(values) // steps)
        for done, value in enumerate(values, 1):
            model.weight.fill_(value)
            average.after_step(done)
        average.settle()
    return float(model.weight.detach())


def test_ema_moves_by_what_the_decay_leaves():
    expected, values = 5.0, [float(v) for v in range(1, 41)]
    for done, value in enumerate(values, 1):
        decay = min(0.8, (1 + done) / (10 + done))
        expected = decay * expected + (1 - decay) * value
    assert walked("ema?decay=.8", values, 4) == pytest.approx(expected, rel=1e-5)


def test_ema_without_decay_is_the_last_weight():
    assert walked("ema?decay=0", [1.0, 2.0, 3.0], 1) == 3.0


def test_swa_is_the_mean_of_the_ends_of_the_last_epochs():
    values = [float(v) for v in range(1, 17)]
    assert walked("swa?start=.75", values, 2) == pytest.approx((14 + 16) / 2)
    assert walked("swa?start=0", values, 2) == pytest.approx(sum(range(2, 17, 2)) / 8)
    assert walked("swa?start=.99", values, 2) == 16.0
    assert walked("swa", [3.0], 1) == 3.0


def test_averages_of_half_precision_follow_steps_too_small_for_it():
    values = [1.0] * 20 + [1.0 + 2**-7] * 3000  # a step of bfloat16 near 1
    assert walked("ema?decay=.999", values, 1, torch.bfloat16) == 1.0 + 2**-7


def test_a_training_ends_with_the_average_and_statistics_that_fit_it(blobs):
    plan = Plan(epochs=3, batch=16, average="ema?decay=.9", recalibrate=False)
    last, averaged = network(), network()
    train(last, blobs, plan.model_copy(update={"average": None}))
    train(averaged, blobs, plan)
    assert not torch.equal(last[0].weight, averaged[0].weight)
    before = averaged[1].running_mean.clone()
    recalibrate(averaged, blobs)
    assert torch.equal(averaged[1].running_mean, before)
    assert judge(averaged, blobs).accuracy > 0.8


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("ramped", [True, False])
@pytest.mark.parametrize("spec", ["ema?decay=.99", "swa?start=.2"])
def test_pruned_weights_of_an_average_are_exactly_zero(blobs, spec, ramped, flat, monkeypatch):
    monkeypatch.setattr("thrifty.training.stepper.FLAT_BELOW", 10**9 if flat else 0)
    model = network()

    def ramp(progress, held):
        return cut(model, Cut(), Budget(0.8 * progress), within=held)

    masks = None if ramped else cut(model, Cut(), Budget(0.8))
    plan = Plan(epochs=4, batch=16, average=spec)
    log = train(model, blobs, plan, masks=masks, ramp=ramp if ramped else None)
    for name, mask in log.masks.items():
        weight = model.get_parameter(name)
        assert bool((weight[~mask].view(torch.int32) == 0).all())
        assert bool((weight[mask] != 0).all())


def test_an_average_leaves_what_is_frozen_alone(blobs):
    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    train(model, blobs, Plan(epochs=1, batch=16, average="ema"))
    assert torch.equal(model[0].weight, before)


def test_a_weight_that_is_frozen_on_the_way_keeps_its_value():
    model = nn.Linear(2, 2)
    average = Average("ema", model, 1, 3)
    with torch.no_grad():
        model.weight.fill_(1.0)
    model.weight.requires_grad_(False)
    average.after_step(1)
    average.settle()
    assert bool((model.weight == 1).all())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ema?decay=1", "0 <= decay < 1"),
        ("ema?decay=-.1", "0 <= decay < 1"),
        ("ema?decay=nan", "decay=nan; it is a number"),
        ("ema?decay=true", "it is a number"),
        ("swa?start=1", "0 <= start < 1"),
        ("swa?start=75", "0 <= start < 1"),
        ("swa?begin=.5", "no option 'begin'"),
        ("emma", "did you mean ema"),
        ("", "no average is called ''"),
    ],
)
def test_an_average_that_makes_no_sense_is_refused(spec, message):
    with pytest.raises(ValidationError, match=message):
        Plan(average=spec)


def test_names_have_defaults():
    assert rule_of("ema")(10**6, 1, 1) == pytest.approx(0.001)
    assert rule_of("swa")(100, 1, 100) == pytest.approx(1 / 25)

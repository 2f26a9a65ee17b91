"""Learning rates are what the schedules say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from thrifty.training.plan import Plan, lr_share, step_size
from thrifty.training.recovery import allr, last_lr

SCHEDULES = ["cosine", "step", "one_cycle", "linear", "constant"]


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(progress=st.floats(0, 1), warmup=st.floats(0, 0.5))
def test_a_rate_is_a_share_of_the_highest(schedule, progress, warmup):
    assert 0.0 <= lr_share(schedule, progress, warmup) <= 1.0


def test_schedules_have_their_known_values():
    assert [lr_share("step", p) for p in (0, 0.49, 0.5, 0.74, 0.75)] == [1, 1, 0.1, 0.1, 0.01]
    assert [lr_share("linear", p) for p in (0, 0.25, 1)] == [1, 0.75, 0]
    assert lr_share("cosine", 0.5) == pytest.approx(0.5)
    assert lr_share("constant", 0.9) == 1
    assert lr_share("one_cycle", 0) == pytest.approx(1 / 25)
    assert lr_share("one_cycle", 0.3) == pytest.approx(1)
    assert lr_share("one_cycle", 1) == pytest.approx(0)


def test_warmup_rises_from_zero_and_hands_over():
    assert lr_share("linear", 0.05, 0.1) == pytest.approx(0.5)
    assert lr_share("linear", 0.1, 0.1) == pytest.approx(1.0)
    assert lr_share("linear", 0.55, 0.1) == pytest.approx(0.5)


def test_retraining_is_as_fast_as_the_cut_was_harmful():
    assert allr(0.1, cut_norm=0, norm=1, sparsity=0.5, shorter=0.1) == pytest.approx(0.01)
    assert allr(0.1, cut_norm=1, norm=1, sparsity=1, shorter=0.1) == pytest.approx(0.1)
    assert allr(0.1, cut_norm=0.2, norm=1, sparsity=0.25, shorter=0.1) == pytest.approx(0.04)
    assert allr(0.1, cut_norm=0, norm=1, sparsity=0.0, shorter=2.0) == pytest.approx(0.1)


def test_fine_tuning_goes_on_at_the_rate_of_the_last_epoch():
    plan = Plan(epochs=10, lr=0.1, schedule="step")
    assert last_lr(plan) == pytest.approx(0.001)
    assert last_lr(Plan(epochs=0, lr=0.1)) == pytest.approx(0.01)


@given(momentum=st.floats(0, 0.95))
def test_the_size_of_a_step_is_what_momentum_makes_of_a_constant_gradient(momentum):
    moved = velocity = 0.0
    for _ in range(400):
        velocity = momentum * velocity + 1.0
        moved = 0.1 * velocity
    assert step_size(Plan(momentum=momentum), 0.1) == pytest.approx(moved)
    assert step_size(Plan(momentum=momentum, optimizer="adam"), 0.1) == 0.1


@pytest.mark.parametrize(
    "values",
    [
        {"lr": 0},
        {"epochs": -1},
        {"batch": 0},
        {"schedule": "cosin"},
        {"learning": 1},
        {"clip": -1},
        {"cutout": -1},
        {"mixup": -0.1},
        {"cutmix": float("nan")},
        {"mixup": float("inf")},
        {"randaugment": -1},
        {"randaugment": 1.5},
        {"magnitude": 31},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(values):
    with pytest.raises(ValidationError):
        Plan(**values)

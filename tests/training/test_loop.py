"""Training learns, holds zeros, resumes to the same bits, and stops where it diverges."""

import copy

import pytest
import torch
from torch import nn

from thrifty.errors import Diverged
from thrifty.lab.measure import judge
from thrifty.pruning import Budget, Cut, cut, of_zeros
from thrifty.training import losses
from thrifty.training.loop import Teacher, train
from thrifty.training.plan import Plan
from thrifty.training.recovery import damage, recalibrate
from thrifty.training.stepper import Stepper


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(216, 3),
    )


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_it_learns(blobs, optimizer, schedule):
    model = network()
    lr = 0.05 if optimizer == "sgd" else 0.005
    log = train(
        model, blobs, Plan(epochs=12, batch=16, lr=lr, optimizer=optimizer, schedule=schedule)
    )
    assert judge(model, blobs).accuracy > 0.9
    assert log.epochs[-1]["loss"] < log.epochs[0]["loss"]
    assert [e["epoch"] for e in log.epochs] == list(range(1, 13))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(blobs):
    results = []
    for seed in (1, 1, 2):
        model = network()
        train(model, blobs, Plan(epochs=2, batch=16), seed=seed)
        results.append(bits(model))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


class Stop(Exception):
    pass


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("ramped", [True, False])
def test_a_resumed_training_is_the_uninterrupted_one(blobs, tmp_path, ramped, flat, monkeypatch):
    monkeypatch.setattr("thrifty.training.stepper.FLAT_BELOW", 10**9 if flat else 0)
    plan = Plan(epochs=5, batch=16, optimizer="adamw", lr=0.01, clip=1.0)

    def begin():
        model = network()

        def ramp(progress, held):
            return cut(model, Cut(), Budget(0.9 * min(1.0, progress / 0.7)), within=held)

        masks = None if ramped else cut(model, Cut(), Budget(0.7))
        return model, {"masks": masks, "ramp": ramp if ramped else None, "seed": 3}

    straight, said = begin()
    train(straight, blobs, plan, **said)

    broken, said = begin()
    checkpoint = tmp_path / "checkpoint.pt"
    short = plan.model_copy()
    calls = {"n": 0}
    original = Stepper.step

    def dying(self, lr):
        calls["n"] += 1
        if calls["n"] == 3 * 6 + 2:
            raise Stop
        original(self, lr)

    monkeypatch.setattr(Stepper, "step", dying)
    with pytest.raises(Stop):
        train(broken, blobs, short, checkpoint=checkpoint, checkpoint_seconds=0, **said)
    monkeypatch.setattr(Stepper, "step", original)
    again, said = begin()
    train(again, blobs, plan, checkpoint=checkpoint, checkpoint_seconds=0, **said)
    assert same(bits(straight), bits(again))


@pytest.mark.parametrize("average", [None, "ema?decay=.9"])
@pytest.mark.parametrize("ramped", [True, False])
def test_a_training_stopped_within_an_epoch_goes_on_at_that_step(
    blobs, tmp_path, ramped, average, monkeypatch
):
    monkeypatch.setattr("thrifty.training.checkpoints.WITHIN", 0.0)
    plan = Plan(epochs=2, batch=16, clip=1.0, average=average, randaugment=1, cutout=2, mixup=0.2)
    steps = {"n": 0, "last": 0}
    original = Stepper.step

    def counted(self, lr):
        steps["n"] += 1
        if steps["n"] == steps["last"]:
            raise Stop
        original(self, lr)

    def trained(last, **more):
        def ramp(progress, held):
            return cut(model, Cut(), Budget(0.9 * progress), within=held)

        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3)
        )
        steps.update(n=0, last=last)
        try:
            log = train(model, blobs, plan, seed=3, ramp=ramp if ramped else None, **more)
        except Stop:
            return None
        return bits(model), [{k: r[k] for k in ("loss", "accuracy", "lr")} for r in log.epochs]

    monkeypatch.setattr(Stepper, "step", counted)
    straight = trained(None)
    said = {"checkpoint": tmp_path / "checkpoint.pt", "checkpoint_seconds": 0}
    assert trained(10, **said) is None
    resumed = trained(None, **said)
    assert steps["n"] == 2 * 6 - 9
    assert same(resumed[0], straight[0])
    assert resumed[1] == straight[1]


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_pruned_weights_stay_exactly_zero(blobs, flat, clip, monkeypatch):
    monkeypatch.setattr("thrifty.training.stepper.FLAT_BELOW", 10**9 if flat else 0)
    model = network()
    masks = cut(model, Cut(), Budget(0.8))
    train(model, blobs, Plan(epochs=3, batch=16, clip=clip), masks=masks)
    for name, p in model.named_parameters():
        if name in masks:
            assert bool((p[~masks[name]].view(torch.int32) == 0).all())
            assert bool((p[masks[name]] != 0).all())
        assert p.grad is None


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_one_buffer_and_many_tensors_give_the_same_network(blobs, monkeypatch, optimizer, clip):
    plan = Plan(epochs=2, batch=16, optimizer=optimizer, lr=0.01, clip=clip)
    found = []
    for limit in (0, 10**9):
        monkeypatch.setattr("thrifty.training.stepper.FLAT_BELOW", limit)
        model = network()
        train(model, blobs, plan, masks=cut(model, Cut(), Budget(0.5)))
        found.append(bits(model))
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-4, atol=1e-6)


def test_a_model_trained_in_one_buffer_is_an_ordinary_model_afterwards(blobs):
    model = network()
    train(model, blobs, Plan(epochs=1, batch=16))
    storages = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert len(storages) == len(list(model.parameters()))
    assert all(p.untyped_storage().nbytes() == 4 * p.numel() for p in model.parameters())
    copy.deepcopy(model).load_state_dict(model.state_dict())


def test_weights_that_are_frozen_by_the_user_do_not_move(blobs):
    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    train(model, blobs, Plan(epochs=1, batch=16))
    assert torch.equal(model[0].weight, before)


def test_divergence_says_where_and_leaves_the_last_good_weights(blobs):
    model = network()
    with pytest.raises(Diverged, match=r"epoch \d+, step \d+ of 6.*lower the learning rate"):
        train(model, blobs, Plan(epochs=50, batch=16, lr=1e30, warmup=0))
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_no_epochs_change_nothing(blobs):
    model = network()
    before = bits(model)
    assert train(model, blobs, Plan(epochs=0)).epochs == []
    assert same(before, bits(model))


def test_a_teacher_pulls_the_student_towards_its_answers(blobs):
    teacher, student = network(1).eval(), network()
    inputs = blobs.prepare(blobs.test.inputs)

    @torch.no_grad()
    def gap() -> float:
        return float(losses.distillation(student.eval()(inputs), teacher(inputs)))

    before = gap()
    plan = Plan(epochs=10, batch=16, augment=False)
    train(student, blobs, plan, teacher=Teacher(teacher, 1.0))
    after = gap()
    assert after < before / 2


def test_distillation_is_zero_at_the_teacher_and_scales_with_temperature():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double()
    assert float(losses.distillation(logits, logits)) == pytest.approx(0, abs=1e-6)
    other = logits + torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    low, high = (float(losses.distillation(other, logits, t)) for t in (20.0, 40.0))
    assert low == pytest.approx(high, rel=0.1)


def test_recalibration_changes_running_statistics_only_and_is_idempotent(blobs):
    model = network().train()
    before = bits(model)
    assert recalibrate(model, blobs)
    first = bits(model)
    assert recalibrate(model, blobs)
    assert same(first, bits(model))
    changed = {k for k in before if not torch.equal(before[k], first[k])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert model.training
    assert model[1].momentum == 0.1
    assert not recalibrate(nn.Linear(2, 2), blobs)


def test_damage_is_the_norm_that_goes_of_the_norm_that_is_there():
    weights = {"w": torch.tensor([3.0, 4.0, 0.0, 12.0])}
    before = {"w": torch.tensor([True, True, True, False])}
    after = {"w": torch.tensor([False, True, True, False])}
    assert damage(weights, before, after) == pytest.approx((3.0, 5.0, 1 / 3))
    assert damage(weights, None, before) == pytest.approx((12.0, 13.0, 0.25))


def test_bf16_trains(blobs):
    model = network()
    train(model, blobs, Plan(epochs=8, batch=16, precision="bf16"))
    assert judge(model, blobs).accuracy > 0.8
    assert of_zeros(model).sparsity == 0

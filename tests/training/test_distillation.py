"""Distillation: what the losses are, what a teacher says, and what is kept of it on disk."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from thrifty.data import Data, Split
from thrifty.errors import UserError
from thrifty.lab.measure import judge
from thrifty.training import losses
from thrifty.training.answers import answers, digest_of, kept_answers, varies
from thrifty.training.batches import Batch, batches
from thrifty.training.distillation import Distillation, Taught
from thrifty.training.loop import train
from thrifty.training.plan import Plan
from thrifty.training.stepper import Stepper
from thrifty.training.teachers import Teacher, evaluating

PLAIN = Plan(epochs=4, batch=16, augment=False)


def network(seed: int = 0, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(216, classes),
    )


def logits(rows: int, classes: int, seed: int, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


def without_labels(data: Data, kept: int = 0) -> Data:
    labels = data.train.labels.clone()
    labels[kept:] = losses.UNLABELED
    return replace(data, train=Split(data.train.inputs, labels), unlabeled=True)


@pytest.fixture(scope="module")
def taught(blobs) -> nn.Module:
    """A teacher that knows the blobs."""
    model = network(5)
    train(model, blobs, Plan(epochs=8, batch=16))
    assert judge(model, blobs).accuracy > 0.9
    return model


# Losses


@given(
    classes=st.integers(2, 7),
    seed=st.integers(0, 1000),
    temperature=st.floats(0.5, 20),
)
@settings(max_examples=60, deadline=None)
def test_distillation_is_its_two_parts(classes, seed, temperature):
    """Zhao et al., equation 6: KD = TCKD + (1 - p) NCKD, input by input."""
    ours, theirs = logits(5, classes, seed), logits(5, classes, seed + 1)
    labels = torch.arange(5) % classes
    target, others, left = losses.parts(ours, theirs, labels, temperature)
    soft = functional.log_softmax(ours.float() / temperature, 1)
    aim = functional.log_softmax(theirs.float() / temperature, 1)
    whole = (aim.exp() * (aim - soft)).sum(1)
    torch.testing.assert_close(target + left * others, whole, rtol=1e-3, atol=1e-5)
    p = aim.exp().gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(left, 1 - p, rtol=1e-4, atol=1e-6)


def test_the_parts_are_those_of_the_published_code():
    """mdistiller/distillers/DKD.py, written out: masks instead of gathered columns."""
    ours, theirs = logits(6, 5, 1).float(), logits(6, 5, 2).float()
    labels, t = torch.tensor([0, 4, 2, 2, 1, 3]), 4.0
    here = functional.one_hot(labels, 5).bool()
    s, p = (ours / t).softmax(1), (theirs / t).softmax(1)
    s2 = torch.stack([(s * here).sum(1), (s * ~here).sum(1)], 1)
    p2 = torch.stack([(p * here).sum(1), (p * ~here).sum(1)], 1)
    tckd = functional.kl_div(s2.log(), p2, reduction="sum") * t**2 / 6
    s3 = (ours / t - 1000.0 * here).log_softmax(1)
    p3 = (theirs / t - 1000.0 * here).softmax(1)
    nckd = functional.kl_div(s3, p3, reduction="sum") * t**2 / 6
    found = losses.decoupled(ours, theirs, labels, t, alpha=1.5, beta=8.0)
    torch.testing.assert_close(found, 1.5 * tckd + 8 * nckd, rtol=1e-5, atol=1e-6)


def test_a_sure_teacher_gives_finite_losses_and_gradients():
    ours = torch.tensor([[60.0, -60.0, 0.0]], requires_grad=True)
    theirs = torch.tensor([[-200.0, 300.0, 0.0]])
    loss = losses.decoupled(ours, theirs, torch.tensor([1]), 1.0)
    loss.backward()
    assert bool(torch.isfinite(loss)) and bool(torch.isfinite(ours.grad).all())


@pytest.mark.parametrize("kind", ["kd", "dkd"])
def test_nothing_is_left_to_learn_from_an_equal_teacher(kind):
    ours = logits(8, 4, 3).requires_grad_()
    labels = torch.arange(8) % 4
    if kind == "kd":
        loss = losses.distillation(ours, ours.detach())
    else:
        loss = losses.decoupled(ours, ours.detach(), labels)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    assert float(ours.grad.abs().max()) < 1e-5


@pytest.mark.parametrize("kind", ["kd", "dkd"])
def test_the_square_of_the_temperature_keeps_the_size_of_the_gradient(kind):
    """From T = 10 to 40 the gradient of the bare divergence falls 16 times, this one hardly."""
    sizes = []
    for temperature in (10.0, 40.0):
        ours, theirs = logits(32, 5, 1).requires_grad_(), logits(32, 5, 2)
        if kind == "kd":
            loss = losses.distillation(ours, theirs, temperature)
        else:
            loss = losses.decoupled(ours, theirs, torch.arange(32) % 5, temperature)
        loss.backward()
        sizes.append(float(ours.grad.norm()))
    assert 0.7 < sizes[1] / sizes[0] < 1.4


def test_the_published_script_of_thriftynet_is_ten_to_one_by_our_convention():
    """Cross entropy + 10 * KL at T = 10 without T^2 is 1.1 times ours at a weight of 1 / 11."""
    ours, theirs = logits(16, 10, 1).float(), logits(16, 10, 2).float()
    labels = torch.arange(16) % 10
    task = losses.task(ours, labels)
    script = task + 10 * functional.kl_div(
        (ours / 10).log_softmax(1), (theirs / 10).softmax(1), reduction="batchmean"
    )
    teacher = Teacher(nn.Identity(), 1 / 11, 10.0, logits=theirs)
    batch = Batch(torch.zeros(16, 1), labels, None, torch.arange(16))
    torch.testing.assert_close(1.1 * teacher.loss(ours, batch, task, 0.5), script)


def test_without_any_label_the_task_is_zero_and_has_a_gradient():
    ours = logits(3, 4, 1).requires_grad_()
    none = torch.full((3,), losses.UNLABELED)
    for smoothing in (0.0, 0.1):
        losses.task(ours, none, smoothing).backward()
    assert float(ours.grad.abs().max()) == 0


def test_inputs_without_a_label_do_not_count_in_the_task():
    ours, labels = logits(6, 4, 1), torch.tensor([1, -1, 2, -1, -1, 0])
    known = labels >= 0
    for smoothing in (0.0, 0.1):
        torch.testing.assert_close(
            losses.task(ours, labels, smoothing), losses.task(ours[known], labels[known], smoothing)
        )


# Teachers


def batch_of(data: Data, rows: int = 16) -> Batch:
    return next(iter(batches(data, data.train, PLAIN.model_copy(update={"batch": rows}), 0, 0)))


def test_weight_and_kind_decide_the_sum(blobs, taught):
    batch, ours = batch_of(blobs), logits(16, 3, 1).float()
    task, said = losses.task(ours, batch.labels), answers(taught, blobs)[batch.index]
    gap = losses.distillation(ours, said, 3.0)
    found = Teacher(taught, 0.7, 3.0).loss(ours, batch, task, 0.5)
    torch.testing.assert_close(found, 0.3 * task + 0.7 * gap)
    gap = losses.decoupled(ours, said, batch.labels, 3.0, 2.0, 5.0)
    dkd = Teacher(taught, None, 3.0, "dkd", alpha=2.0, beta=5.0, warmup=0.5)
    torch.testing.assert_close(dkd.loss(ours, batch, task, 0.75), task + gap)
    torch.testing.assert_close(dkd.loss(ours, batch, task, 0.125), task + 0.25 * gap)
    torch.testing.assert_close(dkd.loss(ours, batch, task, 0.0), task)
    plain = replace(dkd, warmup=0.0)
    torch.testing.assert_close(plain.loss(ours, batch, task, 0.0), task + gap)


def test_a_teacher_is_asked_in_eval_mode_and_left_as_it_was(blobs, taught):
    taught.train()
    before = {k: v.clone() for k, v in taught.state_dict().items()}
    batch, student = batch_of(blobs), network()
    first, again = (Teacher(taught).answers(batch) for _ in range(2))
    assert torch.equal(first, again) and not first.requires_grad
    train(student, blobs, PLAIN, teacher=Teacher(taught))
    assert all(torch.equal(v, before[k]) for k, v in taught.state_dict().items())
    assert all(module.training for module in taught.modules())
    assert all(p.grad is None or not p.grad.any() for p in taught.parameters())
    with pytest.raises(KeyError), evaluating(taught):
        raise KeyError
    assert all(module.training for module in taught.modules())


def test_kept_logits_teach_as_live_ones(blobs, taught):
    live, kept = network(), network()
    train(live, blobs, PLAIN, teacher=Teacher(taught, kind="dkd", beta=2.0))
    known = Teacher(nn.Identity(), kind="dkd", beta=2.0, logits=answers(taught, blobs))
    train(kept, blobs, PLAIN, teacher=known)
    for a, b in zip(live.parameters(), kept.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_an_unlabelled_input_has_the_class_of_its_teacher(blobs, taught):
    batch, ours = batch_of(blobs), logits(16, 3, 1).float()
    teacher = Teacher(taught, 1.0, kind="dkd", warmup=0.0)
    none = replace(batch, labels=torch.full_like(batch.labels, losses.UNLABELED))
    told = replace(batch, labels=teacher.answers(batch).argmax(1))
    zero = torch.zeros(())
    assert torch.equal(teacher.loss(ours, none, zero, 0.5), teacher.loss(ours, told, zero, 0.5))


@pytest.mark.parametrize("kind", ["kd", "dkd"])
@pytest.mark.parametrize("labels", [0, 5])
def test_a_student_learns_without_labels(blobs, taught, kind, labels):
    data = without_labels(blobs, labels)
    student = network()
    plan = Plan(epochs=12, batch=16, lr=0.02)
    log = train(student, data, plan, teacher=Teacher(taught, kind=kind, beta=2.0))
    assert judge(student, blobs).accuracy > 0.9
    assert all(0 <= row["accuracy"] <= 1 for row in log.epochs)


class Stop(Exception):
    pass


@pytest.mark.parametrize("kind", ["kd", "dkd"])
@pytest.mark.parametrize("kept", [True, False])
def test_a_resumed_distillation_is_the_uninterrupted_one(
    blobs, taught, tmp_path, kind, kept, monkeypatch
):
    plan = Plan(epochs=4, batch=16, augment=not kept, lr=0.02)

    def done(**more):
        model, folder = network(), tmp_path / "teachers"
        found = kept_answers(taught, blobs, plan, folder)
        assert (found is not None) == kept
        train(model, blobs, plan, seed=3, teacher=Teacher(taught, kind=kind, logits=found), **more)
        return model.state_dict()

    straight = done()
    calls, original = {"n": 0}, Stepper.step

    def dying(self, lr):
        calls["n"] += 1
        if calls["n"] == 2 * 6 + 3:
            raise Stop
        original(self, lr)

    place = {"checkpoint": tmp_path / "checkpoint.pt", "checkpoint_seconds": 0}
    monkeypatch.setattr(Stepper, "step", dying)
    with pytest.raises(Stop):
        done(**place)
    monkeypatch.setattr(Stepper, "step", original)
    again = done(**place)
    assert all(torch.equal(straight[k], again[k]) for k in straight)


def test_other_classes_are_refused_with_both_numbers(blobs):
    with pytest.raises(UserError, match="teacher gives 5 classes and the student 3 classes"):
        train(network(), blobs, PLAIN, teacher=Teacher(network(1, classes=5)))
    with pytest.raises(UserError, match="outputs of shape .16, 6, 6, 6., not .n, classes."):
        train(network(), blobs, PLAIN, teacher=Teacher(network(1)[:1]))


def test_nothing_to_learn_is_refused(blobs, taught):
    data = without_labels(blobs)
    with pytest.raises(UserError, match="no training input of blobs has a label.*give a teacher"):
        train(network(), data, PLAIN)
    with pytest.raises(UserError, match="the teacher's weight is 0"):
        train(network(), data, PLAIN, teacher=Teacher(taught, 0.0))
    train(network(), without_labels(blobs, 40), PLAIN)  # some labels are enough


# What is kept on disk


def test_logits_are_computed_once_and_read_back_the_same(blobs, taught, tmp_path):
    first = kept_answers(taught, blobs, PLAIN, tmp_path)
    (path,) = tmp_path.iterdir()
    stamp = path.stat().st_mtime_ns
    assert torch.equal(kept_answers(copy.deepcopy(taught), blobs, PLAIN, tmp_path), first)
    assert path.stat().st_mtime_ns == stamp
    torch.testing.assert_close(first, taught.eval()(blobs.prepare(blobs.train.inputs)).detach())


def damaged(content: bytes, how: str) -> bytes:
    if how == "cut short":
        return content[: len(content) // 2]
    if how == "empty":
        return b""
    if how == "a flipped bit":
        return content[:-1] + bytes([content[-1] ^ 1])
    if how == "another key":
        at = content.index(b'"answers":"') + 11
        return content[:at] + (b"0" if content[at : at + 1] != b"0" else b"1") + content[at + 1 :]
    return (1 << 60).to_bytes(8, "little") + content[8:]


@pytest.mark.parametrize(
    "how", ["cut short", "empty", "a flipped bit", "another key", "a header of an exabyte"]
)
def test_a_file_that_cannot_be_believed_is_made_again(blobs, taught, tmp_path, how):
    first = kept_answers(taught, blobs, PLAIN, tmp_path)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    path.write_bytes(damaged(good, how))
    assert torch.equal(kept_answers(taught, blobs, PLAIN, tmp_path), first)
    assert path.read_bytes() == good


def test_the_key_is_decided_by_the_teacher_and_the_data(blobs, taught):
    cpu = torch.device("cpu")
    other, deeper = copy.deepcopy(taught), nn.Sequential(*copy.deepcopy(taught))
    with torch.no_grad():
        other[5].bias[0] += 1e-3
    deeper[2] = nn.Tanh()
    turned = blobs.train.inputs.flip(0)
    datas = (
        blobs,
        replace(blobs, std=(0.3,)),
        replace(blobs, train=Split(turned, blobs.train.labels)),
    )
    found = [digest_of(taught, data, cpu) for data in datas]
    found += [digest_of(model, blobs, cpu) for model in (other, deeper)]
    found.append(digest_of(taught, blobs, torch.device("cuda")))
    assert len(set(found)) == 6
    assert digest_of(copy.deepcopy(taught), blobs, cpu) == found[0]


def test_nothing_is_kept_where_inputs_vary(blobs, taught, tmp_path):
    assert kept_answers(taught, blobs, Plan(), tmp_path / "none") is None
    assert not (tmp_path / "none").exists()
    still = replace(blobs, shift=0, flip=False)
    assert varies(blobs, Plan()) and not varies(still, Plan()) and not varies(blobs, PLAIN)
    for change in ({"cutout": 2}, {"mixup": 0.2}, {"cutmix": 1.0}, {"randaugment": 2}):
        assert varies(still, PLAIN.model_copy(update=change))


def test_a_teacher_of_other_classes_leaves_nothing_on_disk(blobs, tmp_path):
    with pytest.raises(UserError, match="which has 3 classes"):
        kept_answers(network(1, classes=5), blobs, PLAIN, tmp_path)
    assert list(tmp_path.iterdir()) == []


# Tables


def test_a_table_says_what_cannot_be():
    wrong = {
        "teacher_weights fill the network": {"teacher_weights": "x.pt"},
        "beta: of kind dkd alone": {"beta": 2.0},
        "counts for nothing": {"kind": "dkd", "alpha": 0, "beta": 0},
        "greater than 0": {"temperature": 0},
        "less than or equal to 1": {"weight": 1.5},
        "'kd' or 'dkd'": {"kind": "hints"},
        "Extra inputs": {"wieght": 0.5},
    }
    for message, said in wrong.items():
        with pytest.raises(ValueError, match=message):
            Distillation(**said)
    with pytest.raises(ValueError, match="Field required"):
        Taught()
    assert Distillation().share == 0.9
    assert Distillation(kind="dkd").share == 0.5
    assert Distillation(kind="dkd", weight=0.25, beta=2).share == 0.25

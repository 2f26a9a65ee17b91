"""An epoch shows every input once, as the plan says, and each augmentation draws for itself."""

import dataclasses

import pytest
import torch
from torch import nn

from thrifty.data import Data, Split, load_data
from thrifty.errors import UserError
from thrifty.lab.measure import judge
from thrifty.nets import resolve
from thrifty.training import losses
from thrifty.training.batches import batches
from thrifty.training.loop import train
from thrifty.training.plan import Plan

KEYS = [
    {"randaugment": 2},
    {"cutout": 3},
    {"mixup": 0.4},
    {"cutmix": 1.0},
    {"mixup": 0.4, "cutmix": 1.0, "cutout": 2, "randaugment": 1, "magnitude": 20.0},
    {"average": "ema?decay=.9"},
    {"average": "swa?start=.4"},
]


def named(said: dict[str, object]) -> str:
    return "+".join(said)


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


def vectors(data: Data) -> Data:
    """The same inputs, which are no pictures any more."""
    flat = [Split(s.inputs.flatten(1).float() / 255, s.labels) for s in (data.train, data.test)]
    return dataclasses.replace(
        data, train=flat[0], test=flat[1], mean=(0.3,) * 64, std=(0.2,) * 64, shift=0, flip=False
    )


@pytest.mark.parametrize("said", [{}, *KEYS], ids=named)
def test_an_epoch_shows_every_input_once_in_an_order_of_its_own(blobs, said):
    plan = Plan(batch=16, **said)
    orders = []
    for epoch in range(2):
        shown = list(batches(blobs, blobs.train, plan, 1, epoch))
        orders.append(torch.cat([b.index for b in shown]))
        assert all(b.inputs.shape == (16, 1, 8, 8) for b in shown)
        assert all(b.inputs.dtype == torch.float32 for b in shown)
        assert sorted(orders[-1].tolist()) == list(range(96))
    assert not torch.equal(*orders)


@pytest.mark.parametrize("said", [{}, *KEYS], ids=named)
def test_the_seed_and_the_epoch_decide_all_that_is_shown(blobs, said):
    plan = Plan(batch=16, **said)

    def shown(seed, epoch):
        return torch.stack([b.inputs for b in batches(blobs, blobs.train, plan, seed, epoch)])

    torch.manual_seed(1)
    once = shown(3, 4)
    torch.manual_seed(2)
    assert torch.equal(once, shown(3, 4))
    assert not torch.equal(once, shown(3, 5))
    assert not torch.equal(once, shown(4, 4))


def test_without_augmentation_inputs_are_prepared_and_labels_their_own(blobs):
    plan = Plan(batch=16, augment=False)
    for batch in batches(blobs, blobs.train, plan, 0, 0):
        assert torch.equal(batch.inputs, blobs.prepare(blobs.train.inputs[batch.index]))
        assert torch.equal(batch.labels, blobs.train.labels[batch.index])
        assert batch.targets is None


def test_one_augmentation_does_not_change_what_another_draws(blobs):
    """Holes are at the same places and shifts the same, whatever else the plan says."""

    def shown(**said):
        plan = Plan(batch=96, **said)
        return next(batches(blobs, blobs.train, plan, 0, 0)).inputs

    plain, holes = shown(), shown(cutout=3)
    there = holes != 0
    assert torch.equal(holes[there], plain[there])
    assert torch.equal(shown(cutout=3, augment=False) == 0, holes == 0)
    assert torch.equal(shown(cutout=3, randaugment=1)[~there], holes[~there])


@pytest.mark.parametrize("said", [{"randaugment": 2}, {"cutout": 3}, {"cutmix": 1.0}], ids=named)
def test_augmentation_of_pictures_is_refused_for_other_inputs(blobs, said):
    model = nn.Linear(64, 3)
    before = model.weight.clone()
    with pytest.raises(UserError, match=rf"{named(said)}=.* need pictures.*use mixup"):
        train(model, vectors(blobs), Plan(epochs=1, **said))
    assert torch.equal(model.weight, before)


def test_randaugment_of_pictures_that_are_no_bytes_is_refused(blobs):
    floats = Split(blobs.train.inputs.float(), blobs.train.labels)
    data = dataclasses.replace(blobs, train=floats)
    with pytest.raises(UserError, match=r"randaugment=2 needs .*bytes.* blobs are float32"):
        train(network(), data, Plan(epochs=1, randaugment=2))


def test_a_hole_as_large_as_a_picture_is_refused(blobs):
    with pytest.raises(UserError, match=r"cutout=8 .* are 8 x 8; give at most 7, such as 4"):
        train(network(), blobs, Plan(epochs=1, cutout=8))


def test_mixup_trains_on_vectors(blobs):
    data = vectors(blobs)
    model = nn.Linear(64, 3)
    train(model, data, Plan(epochs=15, batch=16, lr=0.02, mixup=0.2))
    assert judge(model, data).accuracy > 0.9


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("said", KEYS, ids=named)
def test_it_learns_with_every_key_in_both_precisions(blobs, said, precision):
    model = network()
    log = train(model, blobs, Plan(epochs=15, batch=16, precision=precision, **said), seed=1)
    assert judge(model, blobs).accuracy > 0.8
    assert log.epochs[-1]["loss"] < log.epochs[0]["loss"]
    assert all(p.dtype == torch.float32 for p in model.parameters())


class Stop(Exception):
    pass


@pytest.mark.parametrize("said", KEYS, ids=named)
def test_a_resumed_training_is_the_uninterrupted_one_with_every_key(blobs, tmp_path, said):
    plan = Plan(epochs=5, batch=16, **said)
    checkpoint = tmp_path / "checkpoint.pt"
    straight, again = network(), network()

    def dying(progress):
        if progress > 0.7:
            raise Stop
        return 0.05 * (1 - progress)

    train(straight, blobs, plan, seed=3, lr_of=lambda progress: 0.05 * (1 - progress))
    with pytest.raises(Stop):
        train(
            network(), blobs, plan, seed=3, lr_of=dying, checkpoint=checkpoint, checkpoint_seconds=0
        )
    log = train(
        again,
        blobs,
        plan,
        seed=3,
        lr_of=lambda progress: 0.05 * (1 - progress),
        checkpoint=checkpoint,
        checkpoint_seconds=0,
    )
    assert len(log.epochs) == 5
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_checkpoint_with_other_averages_is_refused(blobs, tmp_path):
    path = tmp_path / "checkpoint.pt"
    said = {"checkpoint": path, "checkpoint_seconds": 0}
    plain, averaged = Plan(epochs=2, batch=16), Plan(epochs=2, batch=16, average="ema")
    train(network(), blobs, plain, **said)
    with pytest.raises(UserError, match=r"with no averages.*remove the file"):
        train(network(), blobs, averaged, **said)
    path.unlink()
    train(network(), blobs, averaged, **said)
    with pytest.raises(UserError, match=r"with averages.*this one has none"):
        train(network(), blobs, plain, **said)


def test_targets_of_one_class_are_labels():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, -1, 3, 2, 1])
    targets = nn.functional.one_hot(labels.clamp(min=0), 4).float()
    for smoothing in (0.0, 0.1):
        by_label = losses.task(logits, labels, smoothing)
        torch.testing.assert_close(losses.task(logits, labels, smoothing, targets), by_label)
        kept = labels != -1
        torch.testing.assert_close(by_label, losses.task(logits[kept], labels[kept], smoothing))


def test_inputs_without_any_label_give_a_loss_of_nothing():
    logits = torch.randn(3, 4, requires_grad=True)
    labels = torch.full((3,), -1)
    loss = losses.task(logits, labels, 0.1, torch.full((3, 4), 0.25))
    loss.backward()
    assert float(loss.detach()) == 0
    assert bool((logits.grad == 0).all())


@pytest.mark.real
def test_strong_augmentation_and_an_average_still_learn_mnist(real_data):
    data = load_data(f"mnist:{real_data}/mnist?train=3000&test=1000")
    torch.manual_seed(0)
    model = resolve("lenet", classes=10, shape=data.shape)
    strong = {"randaugment": 1, "cutout": 6, "mixup": 0.2, "cutmix": 0.5}
    train(model, data, Plan(epochs=6, batch=32, average="ema?decay=.99", **strong), seed=1)
    assert judge(model, data).accuracy > 0.95

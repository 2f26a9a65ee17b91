"""The claims of the source documents on pruning, at the size of a test."""

import gzip
import struct

import pytest

from thrifty.data import load_data
from thrifty.lab.measure import agree, judge, measure
from thrifty.lab.recipe import recipe
from thrifty.lab.run import run
from thrifty.nets import resolve
from thrifty.pruning import Budget, prune
from thrifty.training.recovery import recalibrate


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    said = recipe(
        seeds=1,
        train={"epochs": 10},
        prune={"method": ["magnitude", "one_shot"], "sparsity": [0.5, 0.9, 0.98]},
        retrain={"epochs": 3},
        latency=False,
    )
    return run(said, tmp_path_factory.mktemp("runs") / "claims")


def accuracy(front, method, level):
    return next(p.accuracy for p in front.points if (p.method, p.level) == (method, level))


def test_steps_beat_one_cut_and_both_beat_the_lot_at_high_sparsity(front):
    steps, once, lot = (accuracy(front, m, 0.98) for m in ("magnitude", "one_shot", "random"))
    assert steps > once > lot


def test_half_the_weights_cost_nothing(front):
    assert accuracy(front, "magnitude", 0.5) > front.dense.accuracy - 0.01


def test_the_convolutions_hold_about_an_eighth_of_the_weights(front):
    """So methods that only remove filters cannot exceed that sparsity: the document's cap."""
    layers = front.records[0].layers
    convolutions = sum(total for name, (_, total) in layers.items() if "conv" in name)
    assert convolutions / sum(total for _, total in layers.values()) == pytest.approx(
        0.124, abs=1e-3
    )


def test_a_sparser_file_is_smaller(front):
    sizes = [p.bytes for p in front.points if p.method == "magnitude"]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < front.dense.bytes / 15


@pytest.mark.real
def test_a_published_network_is_pruned_by_half_and_recalibrated_at_little_loss(real_data):
    """ResNet-20 of 91.7 % on lossless pictures; 81.0 % on these JPEGs with its own statistics."""
    weights = real_data / "weights" / "cifar10" / "resnet20-12fca82f.th"
    data = load_data(f"parquet:{real_data / 'cifar10'}?normalize=imagenet&train=2000&test=1000")
    model = resolve("resnet20", weights=weights, classes=10, shape=(3, 32, 32))
    parent = judge(model, data)
    assert parent.accuracy == pytest.approx(0.81, abs=0.03)
    masks = prune(model, "magnitude", Budget(0.5))
    recalibrate(model, data)
    pruned = measure(model, data)
    assert masks.sparsity == pytest.approx(pruned.sparsity) == pytest.approx(0.5, abs=1e-5)
    assert pruned.accuracy > parent.accuracy - 0.03
    assert agree(judge(model, data).predictions, parent.predictions) > 0.75


@pytest.mark.real
def test_lenet_on_real_digits_is_hurt_by_one_cut_and_recovers(real_data, tmp_path):
    with gzip.open(real_data / "mnist" / "t10k-labels-idx1-ubyte.gz") as file:
        assert struct.unpack(">II", file.read(8)) == (2049, 10_000)
    said = recipe(
        model="lenet",
        data=f"mnist:{real_data / 'mnist'}?train=6000&test=2000",
        seeds=1,
        train={"epochs": 4},
        prune={"sparsity": [0.9]},
        retrain={"epochs": 2},
        random=False,
        control=False,
        latency=False,
    )
    point = run(said, tmp_path / "run").pruned[0]
    assert point.accuracy_cut < point.accuracy
    assert point.drop < 0.015

"""A joined zoo is the same zoo: every tensor, mask, row and prediction, in few files."""

import json

import numpy as np
import pytest

from thrifty.errors import UserError
from thrifty.native import lanes
from thrifty.zoo.joining import join
from thrifty.zoo.predictions import Stored
from thrifty.zoo.recipe import zoo_recipe
from thrifty.zoo.running import make_twins, train_zoo
from thrifty.zoo.twins import TwinRecipe
from thrifty.zoo.zoo import Zoo

needs_lanes = pytest.mark.skipif(not lanes.available(), reason="the lanes are not compiled")

SAID = {
    "net": "zoo_cnn_s?width=0.25",
    "data": "digits?train=60&test=30",
    "grid": {"act": ["tanh", "relu"], "dropout": [0, 0.1], "init": ["uniform", "normal"]},
    "seeds": 3,
    "stack": 2,
    "train": {"epochs": 2},
}
TWINS = {"sparsity": (0.3, 0.9), "epochs": 1, "variational": {"epochs": 2}, "stack": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_zoo(zoo_recipe(SAID), tmp_path_factory.mktemp("trained") / "zoo")


@pytest.fixture(scope="module")
def twins(trained, tmp_path_factory):
    recipe = TwinRecipe.model_validate(TWINS)
    return make_twins(recipe, trained, tmp_path_factory.mktemp("twins") / "twins", models=8)


def shards(zoo):
    return len(list(zoo.folder.shards.iterdir()))


def assert_the_same(before, after):
    assert (len(after), after.epochs) == (len(before), before.epochs)
    for epoch in before.epochs:
        ours, theirs = after.at(epoch), before.at(epoch)
        assert set(ours.columns) == set(theirs.columns)
        for name in set(theirs.columns) - {"stack", "shard", "row"}:
            assert [str(v) for v in ours[name]] == [str(v) for v in theirs[name]], name
    for a, b in zip(before, after, strict=True):
        assert a.epochs == b.epochs
        for epoch in a.epochs:
            one, other = a.tensors(epoch), b.tensors(epoch)
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[name], other[name]) for name in one)
            mask, same = a.masks(epoch), b.masks(epoch)
            assert mask.keys() == same.keys()
            assert all(np.array_equal(mask[name], same[name]) for name in mask)


def predictions(zoo):
    table = zoo.at()
    return Stored(zoo.folder, table.to_dict())(np.arange(len(table)))


def test_every_model_is_as_it_was(root, tmp_path):
    before = Zoo(root)
    after = join(before, tmp_path / "joined")
    assert_the_same(before, after)
    assert (shards(before), shards(after)) == (4, 2)
    assert after.check() == []


def test_a_layer_of_all_models_is_a_view_of_the_file(root, tmp_path):
    before = Zoo(root)
    after = join(before, tmp_path / "joined")
    assert before.weights("conv1.weight").flags.owndata
    layer = after.weights("conv1.weight")
    assert not layer.flags.owndata
    assert not layer.flags.writeable
    assert np.array_equal(layer, before.weights("conv1.weight"))


@needs_lanes
def test_a_trained_zoo_has_a_shard_for_each_architecture(trained, tmp_path):
    after = join(trained, tmp_path / "joined")
    assert_the_same(trained, after)
    assert np.array_equal(predictions(trained), predictions(after))
    assert shards(after) == 2 * len(trained.epochs)
    for one, other in zip(trained, after, strict=True):
        rates = [[m.p for m in made.module().modules() if hasattr(m, "p")] for made in (one, other)]
        assert [r for r in rates[0] if r] == [r for r in rates[1] if r]
    assert after.check() == []


@needs_lanes
def test_joined_twins_lie_by_method_and_sparsity(twins, tmp_path):
    after = join(twins, tmp_path / "joined")
    assert_the_same(twins, after)
    assert np.array_equal(predictions(twins), predictions(after))
    level = after.where("method == 'magnitude' and asked == 0.9 and act == 'tanh'")
    assert len(set(level.at()["shard"].tolist())) == 1
    assert after.check() == []


@needs_lanes
def test_twins_of_a_joined_zoo_are_those_of_the_zoo(trained, tmp_path):
    recipe = TwinRecipe.model_validate(TWINS | {"method": "magnitude", "sparsity": 0.5})
    after = join(trained, tmp_path / "joined")
    first = make_twins(recipe, trained, tmp_path / "a", models=4)
    second = make_twins(recipe, after, tmp_path / "b", models=4)
    assert_the_same(first, second)


def test_a_shard_holds_no_more_models_than_asked(root, tmp_path):
    after = join(Zoo(root), tmp_path / "joined", most=4)
    assert sorted(np.unique(after.at()["shard"], return_counts=True)[1].tolist()) == [2, 4]
    assert_the_same(Zoo(root), after)


def test_large_models_are_fewer_in_a_shard(root, tmp_path, monkeypatch):
    size = sum(x.nbytes for x in Zoo(root)[0].tensors().values())
    monkeypatch.setattr("thrifty.zoo.joining.MOST_BYTES", 2 * size + 1)
    after = join(Zoo(root), tmp_path / "joined")
    assert shards(after) == 6


def test_a_join_that_was_killed_goes_on(root, tmp_path):
    whole = join(Zoo(root), tmp_path / "whole")
    part = join(Zoo(root), tmp_path / "part")
    part.folder.rows("joined0000", 2).unlink()
    kept = part.folder.shard("joined0000", 1)
    before = kept.stat().st_mtime_ns
    again = join(Zoo(root), tmp_path / "part")
    assert kept.stat().st_mtime_ns == before
    assert_the_same(whole, again)


def test_some_of_a_zoo_can_be_joined(root, tmp_path):
    some = Zoo(root).where("act == 'relu'")
    assert [m.id for m in join(some, tmp_path / "joined")] == [3, 4, 5]


def test_models_without_a_name_of_their_network_are_joined_by_their_tensors(
    root, segment, tmp_path
):
    for epoch in (1, 2):
        segment(root, "0001", epoch, [3, 4, 5], spec="")
    after = join(Zoo(root), tmp_path / "joined")
    assert_the_same(Zoo(root), after)
    assert shards(after) == 4


def test_a_folder_of_something_else_is_refused(root, tmp_path):
    zoo = Zoo(root)
    with pytest.raises(UserError, match="is the zoo that is to be joined"):
        join(zoo, root)
    with pytest.raises(UserError, match="there are no models to join"):
        join(zoo.some([]), tmp_path / "joined")
    with pytest.raises(UserError, match="1 to 16,384"):
        join(zoo, tmp_path / "joined", most=0)
    join(zoo, tmp_path / "joined")
    with pytest.raises(UserError, match=r"holds another zoo: joined is \[6, 12, 16384\] there"):
        join(zoo.some([0, 1]), tmp_path / "joined")


def test_a_joined_zoo_is_not_trained_on(root, tmp_path):
    made = join(Zoo(root), tmp_path / "joined")
    mark = json.loads(made.folder.mark.read_text())
    mark.pop("joined")
    with pytest.raises(UserError, match="was joined from another zoo, to be read; go on in that"):
        made.folder.prepare(mark)


def test_a_damaged_shard_is_named(root, tmp_path):
    path = Zoo(root).folder.shard("0001", 2)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"0001-0002\.safetensors"):
        join(Zoo(root), tmp_path / "joined")

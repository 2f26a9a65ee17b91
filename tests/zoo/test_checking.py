"""A zoo with something wrong: what it is is named, and the rest stays usable."""

import json

import numpy as np
import pytest

import thrifty
from thrifty.errors import UserError
from thrifty.zoo.shards import write_shard


def test_a_whole_zoo_has_no_problems(root):
    zoo = thrifty.Zoo(root)
    assert zoo.check() == [] and len(zoo.sound()) == 6


def test_a_missing_shard_is_named_and_the_others_are_read(root):
    (root / "shards" / "0001-0002.safetensors").unlink()
    zoo = thrifty.Zoo(root)
    with pytest.raises(UserError, match=r"0001-0002.safetensors is missing.*zoo.sound\(\)"):
        zoo.weights("conv1.weight")
    assert zoo.weights("conv1.weight", epoch=1).shape[0] == 6
    assert zoo[0].tensors() and zoo[4].tensors(1)
    (problem,) = zoo.check()
    assert "0001-0002.safetensors is missing" in problem
    assert zoo.sound().weights("conv1.bias")[:, 0].tolist() == pytest.approx([0.2, 1.2, 2.2])


def test_a_truncated_shard_is_named_and_the_others_are_read(root):
    path = root / "shards" / "0000-0002.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    zoo = thrifty.Zoo(root)
    with pytest.raises(UserError, match="0000-0002.safetensors is no whole safetensors file"):
        zoo[0].tensors()
    assert len(zoo.sound()) == 3 and len(zoo.check()) == 1


def test_a_shard_of_another_segment_is_refused(root):
    shards = root / "shards"
    (shards / "0000-0001.safetensors").replace(shards / "0000-0002.safetensors")
    zoo = thrifty.Zoo(root)
    with pytest.raises(UserError, match="says that it is stack '0000' at epoch 1, and the index"):
        zoo[0].tensors()
    assert len(zoo.check()) == 2


def test_a_shard_of_fewer_models_than_the_index_is_refused(root):
    about = {"stack": "0000", "epoch": 2, "first": 0, "model": "zoo_cnn_s"}
    path = root / "shards" / "0000-0002.safetensors"
    write_shard(path, {"conv1.weight": np.zeros((2, 3), "f4")}, about)
    zoo = thrifty.Zoo(root)
    for read in (zoo[2].tensors, lambda: zoo.weights("conv1.weight"), zoo.stack):
        with pytest.raises(UserError, match="has 2 models, and the index has one in its row 2"):
            read()
    assert "has 2 models" in zoo.check()[0] and len(zoo.sound()) == 3


def test_an_index_of_other_models_than_the_shard_is_a_problem(root):
    path = root / "rows" / "0000-0002.json"
    said = json.loads(path.read_text())
    said["columns"]["model"] = [7, 1, 2]
    path.write_text(json.dumps(said))
    (problem,) = thrifty.Zoo(root).check()
    assert "says that its first model is 0, and the index says 7" in problem


def test_a_model_that_is_twice_in_the_index_counts_once(root, segment):
    segment(root, "9999", 2, [0, 1])
    zoo = thrifty.Zoo(root)
    assert len(zoo) == 6 and zoo.doubled == 2
    assert any("2 rows of models that it has" in problem for problem in zoo.check())


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "no JSON object"),
        ('{"format": 9}', "is of format 9"),
        ('{"format": 1, "kind": "cars"}', "models or twins"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_damaged_mark_is_told_of(root, mark, message):
    (root / "zoo.json").write_text(mark)
    with pytest.raises(UserError, match=message):
        thrifty.Zoo(root)


@pytest.mark.parametrize("networks", [None, 3, [3], [{"spec": 3}], [{"shape": "x", "classes": []}]])
def test_odd_networks_in_the_mark_do_no_harm(root, networks):
    about = json.loads((root / "zoo.json").read_text())
    (root / "zoo.json").write_text(json.dumps(about | {"networks": networks}))
    zoo = thrifty.Zoo(root)
    assert zoo[0].tensors() and zoo.check() == []
    with pytest.raises(UserError, match="do not say the shape of an input"):
        zoo.stack()


def test_a_model_that_diverged_is_read_and_not_built(root, segment):
    segment(root, "0000", 3, [0, 1, 2], diverged=[False, True, False])
    path = root / "shards" / "0000-0003.safetensors"
    shard = thrifty.Zoo(root).shard("0000", 3)
    tensors = {name: shard.tensor(name).copy() for name in shard.names}
    tensors["conv1.weight"][1] = np.nan
    about = {"stack": "0000", "epoch": 3, "first": 0, "model": shard.about.model}
    write_shard(path, tensors, about)
    zoo = thrifty.Zoo(root)
    assert np.isnan(zoo[1].tensors()["conv1.weight"]).all()
    assert zoo[0].module() is not None
    with pytest.raises(UserError, match="NaN"):
        zoo[1].module()
    assert len(zoo.where("not diverged")) == 5

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from thrifty.errors import UserError
from thrifty.nets import read_weights
from thrifty.sources.opening import Bad, only, opened

INDEX = "model.safetensors.index.json"


def put(folder, weight_map=None, **shards):
    """Shards and their index in ``folder``; the path of the index."""
    said = {}
    for shard, arrays in shards.items():
        save_file(arrays, folder / f"{shard}.safetensors")
        said.update(dict.fromkeys(arrays, f"{shard}.safetensors"))
    index = folder / INDEX
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map or said}))
    return index


A, B = {"a": np.float32([1, 2])}, {"b": np.int8([3]), "c": np.float64([4])}


def test_all_shards_are_one_network(tmp_path):
    (source,) = opened(put(tmp_path, one=A, two=B))
    assert source.label == "model" and source.nbytes == sum(
        f.stat().st_size for f in tmp_path.glob("*.safetensors")
    )
    with only(tmp_path / INDEX) as source:
        assert {x.name: x.whole().tolist() for x in source.tensors} == {
            "a": [1, 2],
            "b": [3],
            "c": [4],
        }


def test_in_a_folder_the_shards_are_no_networks_and_others_are(tmp_path):
    put(tmp_path, one=A, two=B)
    save_file(A, tmp_path / "other.safetensors")
    assert [s.label for s in opened(tmp_path)] == ["model", "other"]


def test_a_missing_shard_is_named(tmp_path):
    index = put(tmp_path, one=A, two=B)
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(UserError, match=r"names the shard 'two\.safetensors', and there is no"):
        list(opened(index))


@pytest.mark.parametrize("shard", ["a" * 5000, "\ud800.safetensors"])
def test_a_shard_that_no_file_can_be_is_missing(tmp_path, shard):
    with pytest.raises(UserError, match="there is no such file"):
        list(opened(put(tmp_path, {"a": shard})))


def test_a_damaged_shard_is_named(tmp_path):
    index = put(tmp_path, one=A, two=B)
    (tmp_path / "two.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"two\.safetensors is no whole"):
        list(opened(index))


def test_index_and_shards_must_name_the_same_tensors(tmp_path):
    one, two = "one.safetensors", "two.safetensors"
    index = put(tmp_path, {"a": one, "b": two}, one=A, two=B)
    with pytest.raises(UserError, match=r"does not name 'c', which is in two\.safetensors"):
        list(opened(index))
    index = put(tmp_path, {"a": one, "x": one, "b": two, "c": two}, one=A, two=B)
    with pytest.raises(UserError, match=r"says that 'x' is in one\.safetensors, which does not"):
        list(opened(index))


@pytest.mark.parametrize(
    "shard", ["../w.safetensors", "/etc/passwd", "a\\b.safetensors", "..", "", 3, "c:w", "a\0"]
)
def test_shards_elsewhere_are_refused(tmp_path, shard):
    index = put(tmp_path, {"a": shard})
    with pytest.raises(UserError, match="a shard is a file beside the index"):
        list(opened(index))


def test_a_shard_that_is_another_index_is_refused(tmp_path):
    index = put(tmp_path, {"a": INDEX})
    with pytest.raises(UserError, match="shards end in"):
        list(opened(index))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {}}', "[" * 100000, '{"a":\xff'])
def test_an_index_that_is_none_is_told(tmp_path, text):
    (tmp_path / INDEX).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=INDEX):
        list(opened(tmp_path / INDEX))


def test_a_damaged_index_does_not_hide_the_files_beside_it(tmp_path):
    save_file(A, tmp_path / "one.safetensors")
    (tmp_path / INDEX).write_text("no")
    assert [isinstance(s, Bad) for s in opened(tmp_path)] == [True, False]


def test_a_scale_may_lie_in_another_shard(tmp_path):
    index = put(tmp_path, one={"w": np.int8([[1], [2]])}, two={"w_scale": np.float32([1, 2])})
    (source,) = opened(index)
    assert source.tensors[0].quantised.scale.tolist() == [1, 2]


def test_shards_of_torch_are_read_with_their_ties(tmp_path):
    w = torch.arange(3.0)
    torch.save({"w": w, "tied": w}, tmp_path / "one.bin")
    torch.save({"v": w + 1}, tmp_path / "two.bin")
    index = tmp_path / "model.bin.index.json"
    said = {"w": "one.bin", "tied": "one.bin", "v": "two.bin"}
    index.write_text(json.dumps({"weight_map": said}))
    (source,) = opened(tmp_path)
    assert [x.name for x in source.tensors] == ["w", "v"]
    assert source.notes == ("tied is w, and counted once",)


def test_sharded_weights_fill_networks(tmp_path):
    tensors, _ = read_weights(put(tmp_path, one=A, two=B))
    assert tensors["a"].tolist() == [1, 2] and tensors["c"].dtype is torch.float64

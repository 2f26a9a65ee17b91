"""A zoo as weight files, and back."""

import json

import numpy as np
import pytest
import torch

import thrifty
from thrifty.errors import UserError
from thrifty.zoo.exporting import export
from thrifty.zoo.folder import Folder
from thrifty.zoo.importing import import_zoo
from thrifty.zoo.index import write_rows
from thrifty.zoo.shards import write_sparse_shard


def test_each_model_is_a_file_that_loads_by_itself(root, tmp_path):
    zoo = thrifty.Zoo(root)
    done = export(zoo, tmp_path / "out", epoch=1)
    assert [f.name for f in done.files] == [f"{i:05d}.safetensors" for i in range(6)]
    assert done.left_out == ()
    for member, file in zip(zoo, done.files, strict=True):
        loaded, own = thrifty.load(file), member.module(1)
        for name, x in own.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], x)
    lines = (tmp_path / "out" / "index.jsonl").read_text().splitlines()
    assert json.loads(lines[3])["file"] == "00003.safetensors"
    assert json.loads(lines[3])["act"] == "relu"


def test_what_was_exported_is_a_zoo_again(root, tmp_path):
    zoo = thrifty.Zoo(root)
    export(zoo, tmp_path / "out")
    done = import_zoo(tmp_path / "out", tmp_path / "again")
    again = thrifty.Zoo(tmp_path / "again")
    assert (done.models, done.checkpoints, done.left_out) == (6, 6, ())
    for name in zoo.names():
        assert np.array_equal(zoo.weights(name), again.weights(name))
    assert again.stack().model == zoo.stack().model and again.check() == []


def test_a_model_that_diverged_is_left_out_and_said(root, tmp_path, segment):
    path = root / "shards" / "0000-0002.safetensors"
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    done = export(thrifty.Zoo(root), tmp_path / "out")
    assert len(done) == len(done.files) == 5
    assert str(done).startswith("5 models exported; 1 left out:\n  model 2: ")
    assert "model 2" in done.left_out[0] and "diverged" in done.left_out[0]


def test_a_damaged_shard_keeps_no_other_from_being_exported(root, tmp_path):
    (root / "shards" / "0001-0002.safetensors").unlink()
    done = export(thrifty.Zoo(root), tmp_path / "out")
    assert len(done.files) == 3 and len(done.left_out) == 3


def test_sparse_twins_are_files_of_their_method(tmp_path):
    place = tmp_path / "twins"
    Folder(place).prepare({"kind": "twins", "networks": []})
    x = {"w": np.ones((2, 3, 4), np.float32)}
    about = {"stack": "m", "epoch": 15, "first": 0, "model": ""}
    mask = np.random.default_rng(0).random((2, 3, 4)) < 0.5
    write_sparse_shard(Folder(place).shard("m", 15), x, {"w": mask}, about)
    write_rows(place, "m", 15, {"model": [0, 1], "method": "magnitude", "asked": 0.5})
    zoo = thrifty.Zoo(place)
    assert np.array_equal(zoo[1].masks()["w"], mask[1])
    assert np.array_equal(zoo.weights("w"), mask.astype(np.float32))
    done = export(zoo, tmp_path / "out")
    assert done.files[1].name == "00001-magnitude-0.5.safetensors"


def test_a_stack_of_sparse_twins_has_their_masks(root, tmp_path):
    original = thrifty.Zoo(root).where("model < 3")
    tensors = {name: original.weights(name) for name in original.names()}
    rng = np.random.default_rng(0)
    masks = {n: rng.random(x.shape) < 0.3 for n, x in tensors.items() if n.endswith("weight")}
    place = tmp_path / "twins"
    Folder(place).prepare({"kind": "twins", "networks": original.about["networks"]})
    model = original.stack().model
    about = {"stack": "m", "epoch": 15, "first": 0, "model": model}
    write_sparse_shard(Folder(place).shard("m", 15), tensors, masks, about)
    write_rows(place, "m", 15, {"model": range(3), "method": "magnitude", "asked": 0.7})
    stack = thrifty.Zoo(place).where("model in (0, 2)").stack()
    assert set(stack.masks) == set(masks)
    for name, mask in masks.items():
        assert np.array_equal(stack.masks[name].numpy(), mask[[0, 2]])
        assert np.array_equal(stack.tensors[name].numpy(), np.where(mask, tensors[name], 0)[[0, 2]])


def test_nothing_is_exported_over_something(root, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is no empty folder"):
        export(thrifty.Zoo(root), tmp_path)
    with pytest.raises(UserError, match="is no empty folder"):
        export(thrifty.Zoo(root), tmp_path / "thesis.tex")
    with pytest.raises(UserError, match="no models to export"):
        export(thrifty.Zoo(root).where("lr > 1"), tmp_path / "out")

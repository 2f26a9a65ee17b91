import os

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from thrifty.errors import UserError
from thrifty.pack import save
from thrifty.sources import SOURCES, Reader, Source
from thrifty.sources.folders import labels, natural
from thrifty.sources.opening import Bad, expand, only, opened


def put(path, value=1.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": np.float32([value])}, path)
    return path


def seen(*what):
    """Label to first number, or to the error."""
    return {
        x.label: x.message if isinstance(x, Bad) else x.tensors[0].whole().ravel()[0].item()
        for x in opened(*what)
    }


def test_a_file_is_one_source_called_by_its_name(tmp_path):
    assert seen(put(tmp_path / "net.safetensors", 3)) == {"net": 3}
    assert seen(str(tmp_path / "net.safetensors")) == {"net": 3}


def test_files_of_a_folder_come_as_people_count(tmp_path):
    for i in (10, 2, 1):
        put(tmp_path / "nets" / f"net{i}.safetensors", i)
    put(tmp_path / "deep" / "er" / "x.safetensors", 5)
    (tmp_path / "notes.txt").write_text("no")
    put(tmp_path / ".cache" / "hidden.safetensors")
    assert list(seen(tmp_path).items()) == [("x", 5), ("net1", 1), ("net2", 2), ("net10", 10)]


def test_names_that_collide_are_told_apart(tmp_path):
    put(tmp_path / "a" / "model.safetensors", 1)
    put(tmp_path / "b" / "model.safetensors", 2)
    put(tmp_path / "one.safetensors", 3)
    np.save(tmp_path / "one.npy", np.float32([4]))
    found = seen(tmp_path, tmp_path / "one.npy")
    assert set(found.values()) == {1, 2, 3, 4} and len(found) == 5
    assert {"a/model", "b/model", "one.safetensors"} <= set(found)


def test_a_bad_file_does_not_keep_the_others_from_being_read(tmp_path):
    put(tmp_path / "a.safetensors", 1)
    (tmp_path / "b.safetensors").write_bytes(b"no")
    put(tmp_path / "c.safetensors", 3)
    found = seen(tmp_path)
    assert (found["a"], found["c"]) == (1, 3)
    assert "b.safetensors is no whole safetensors file" in found["b"]


def test_one_bad_file_alone_is_an_error(tmp_path):
    (tmp_path / "b.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="no whole safetensors"):
        list(opened(tmp_path / "b.safetensors"))


def test_files_are_opened_one_at_a_time_and_closed_after(tmp_path):
    for name in "ab":
        put(tmp_path / f"{name}.safetensors")
    sources = opened(tmp_path)
    first = next(sources)
    (tmp_path / "b.safetensors").write_bytes(b"damaged in the meantime")
    assert isinstance(next(sources), Bad)
    with pytest.raises(UserError, match="closed"):
        first.tensors[0].whole()


def test_a_folder_without_weights_lists_the_suffixes(tmp_path):
    with pytest.raises(UserError, match=r"no weight file.*\.npz.*\.safetensors"):
        expand(tmp_path)


def test_links_in_a_circle_are_entered_once(tmp_path):
    put(tmp_path / "nets" / "a.safetensors")
    os.symlink(tmp_path, tmp_path / "nets" / "around")
    os.symlink(tmp_path / "nets", tmp_path / "again")
    assert len(seen(tmp_path)) == 1


def test_a_link_to_nothing_is_passed_over(tmp_path):
    put(tmp_path / "a.safetensors")
    os.symlink(tmp_path / "gone", tmp_path / "b.safetensors")
    assert list(seen(tmp_path)) == ["a"]


def test_of_a_run_only_the_networks_count(tmp_path):
    model = torch.nn.Linear(2, 1)
    for step in ("seed0-dense-1", "seed0-magnitude-2"):
        save(model, tmp_path / "steps" / step / "model.safetensors.zst")
        save(model, tmp_path / "steps" / step / "masks.safetensors")
        np.save(tmp_path / "steps" / step / "predictions.npy", np.ones(3))
        (tmp_path / "steps" / step / "record.json").write_text("{}")
    put(tmp_path / "export.safetensors")
    (tmp_path / "run.json").write_text("{}")
    wanted = {"seed0-dense-1/model", "seed0-magnitude-2/model"}
    assert {place.label for place in expand(tmp_path)} == wanted
    assert len(expand(tmp_path / "steps" / "seed0-dense-1")) == 1


def test_what_exists_is_a_path_before_it_is_anything_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "hf:org" / "net.safetensors", 5)
    assert seen("hf:org") == {"net": 5}


def test_a_built_in_network_is_not_hidden_by_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "lenet" / "net.safetensors", 5)
    assert [place.label for place in expand("lenet")] == ["lenet"]
    assert seen("./lenet") == {"net": 5}


def test_a_prefix_goes_to_its_reader_and_the_rest_to_networks(monkeypatch):
    asked = []

    def reader(name):
        def read(text):
            asked.append((name, text))
            return Source(text, name, ())

        return Reader(name, read, prefix=name)

    readers = {"here": reader("here"), "networks": reader("network")}
    monkeypatch.setattr(SOURCES, "_things", readers)
    monkeypatch.setattr(SOURCES, "_loaded", True)
    for text in ("here:a/b@c:d", "torchvision:alexnet", "my.module:make?x=1", "resnet20?width=2"):
        list(opened(text))
    assert asked == [
        ("here", "a/b@c:d"),
        ("network", "torchvision:alexnet"),
        ("network", "my.module:make?x=1"),
        ("network", "resnet20?width=2"),
    ]


@pytest.mark.parametrize("text", ["gone.safetensors", "a/b/c", "./gone", "x.npz", "gone.pt"])
def test_a_path_to_nothing_is_told_as_such(text):
    with pytest.raises(UserError, match="there is no file or folder"):
        expand(text)


@pytest.mark.parametrize("text", ["", "  "])
def test_nothing_names_nothing(text):
    with pytest.raises(UserError, match="empty"):
        expand(text)


def test_a_file_of_another_kind_is_told_with_the_kinds_there_are(tmp_path):
    (tmp_path / "a.txt").write_text("no")
    with pytest.raises(UserError, match=r"a\.txt is of no known kind.*\.safetensors"):
        expand(tmp_path / "a.txt")


def test_numbers_in_names_sort_as_numbers():
    names = ["b10", "b9", "a", "b9a", "9", "10"]
    assert sorted(names, key=natural) == ["9", "10", "a", "b9", "b9a", "b10"]


def test_the_same_path_twice_has_two_names(tmp_path):
    path = put(tmp_path / "a.safetensors")
    names = labels([path, path], [".safetensors"])
    assert len(set(names)) == 2


def test_what_cannot_be_printed_in_a_name_is_escaped(tmp_path):
    path = tmp_path / "a\x1b[2J\udcff.safetensors"
    assert labels([path], [".safetensors"]) == ["a\\x1b[2J\\udcff"]


def test_one_source_is_asked_for_where_there_are_several(tmp_path):
    put(tmp_path / "a.safetensors", 7)
    with only(tmp_path) as source:
        assert source.tensors[0].whole() == 7
    put(tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=r"has 2 networks \(a, b"):
        only(tmp_path)


@pytest.mark.real
def test_published_weights_are_read_whole(real_data):
    sources = {}
    for source in opened(*sorted((real_data / "weights").rglob("*.safetensors*"))):
        assert not isinstance(source, Bad)
        zeros = count = 0
        for piece in (p for x in source.tensors if len(x.shape) > 1 for p in x.read()):
            zeros, count = zeros + int((piece == 0).sum()), count + piece.size
        sources[source.label] = (zeros / max(count, 1), sum(x.count for x in source.tensors))
    assert round(100 * sources["squeezenet1.0-deepcompressed-ilsvrc"][0], 2) == 66.58
    assert len(sources) == 70 and sources["resnet18-pq-small-ilsvrc"][1] == 11_689_512

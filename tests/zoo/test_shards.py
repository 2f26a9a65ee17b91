"""Shards, dense and sparse: what is written is what is read, and damage is an error."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thrifty.errors import UnknownName, UserError
from thrifty.zoo.reading import Shard
from thrifty.zoo.shards import KEY, write_shard, write_sparse_shard

ABOUT = {"stack": "s", "epoch": 3, "first": 10, "model": "zoo_cnn_s", "classes": 10}
RNG = np.random.default_rng(0)
DENSE = {
    "w": RNG.normal(size=(4, 3, 5)).astype(np.float32),
    "b": RNG.normal(size=(4, 3)).astype(np.float32),
    "count": np.arange(4, dtype=np.int64),
}
MASK = RNG.random((4, 3, 5)) < 0.4


@pytest.fixture
def dense(tmp_path):
    path = tmp_path / "s-0003.safetensors"
    write_shard(path, DENSE, ABOUT)
    return path


@pytest.fixture
def sparse(tmp_path):
    path = tmp_path / "sparse-0003.safetensors"
    write_sparse_shard(path, DENSE, {"w": MASK}, ABOUT)
    return path


def test_a_dense_shard_gives_back_every_bit(dense):
    shard = Shard(dense)
    assert set(shard.names) == set(DENSE)
    for name, x in DENSE.items():
        assert np.array_equal(shard.tensor(name), x) and shard.tensor(name).dtype == x.dtype
        assert np.array_equal(shard.model(2)[name], x[2])
        assert shard.shape(name) == x.shape[1:]
        assert shard.mask(name) is None
    about = shard.about
    assert (about.stack, about.epoch, about.first, about.count) == ("s", 3, 10, 4)
    assert (about.model, about.shape, about.classes) == ("zoo_cnn_s", None, 10)


def test_a_dense_shard_is_a_file_that_others_read(dense):
    read = safetensors.numpy.load_file(dense)
    assert all(np.array_equal(read[name], x) for name, x in DENSE.items())


def test_tensors_of_torch_are_taken_also_as_views(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    write_shard(tmp_path / "a", {"left": whole[:, :3], "turned": whole.t()[:4]}, ABOUT)
    shard = Shard(tmp_path / "a")
    assert np.array_equal(shard.tensor("left"), whole[:, :3].numpy())
    assert np.array_equal(shard.tensor("turned"), whole.t()[:4].numpy())


def test_the_same_content_is_the_same_bytes(tmp_path, dense):
    write_shard(tmp_path / "again", dict(reversed(DENSE.items())), ABOUT)
    assert (tmp_path / "again").read_bytes() == dense.read_bytes()


def test_a_sparse_shard_gives_zeros_where_a_weight_is_cut(sparse):
    shard = Shard(sparse)
    assert np.array_equal(shard.tensor("w"), np.where(MASK, DENSE["w"], 0))
    assert np.array_equal(shard.mask("w"), MASK)
    for row in range(4):
        assert np.array_equal(shard.model(row)["w"], np.where(MASK, DENSE["w"], 0)[row])
        assert np.array_equal(shard.mask("w", slice(row, row + 1))[0], MASK[row])
    assert np.array_equal(shard.tensor("w", slice(1, 3)), np.where(MASK, DENSE["w"], 0)[1:3])
    assert np.array_equal(shard.tensor("b"), DENSE["b"])


def test_a_sparse_shard_of_many_zeros_is_small(tmp_path):
    weights, mask = RNG.normal(size=(64, 4096)).astype(np.float32), RNG.random((64, 4096)) < 0.1
    dense = write_shard(tmp_path / "d", {"w": weights}, ABOUT)
    sparse = write_sparse_shard(tmp_path / "s", {"w": weights}, {"w": mask}, ABOUT)
    assert sparse < 0.14 * dense


@given(st.integers(1, 5), st.integers(1, 40), st.floats(0, 1), st.integers(0, 1000))
@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40
)
def test_any_mask_comes_back(tmp_path, models, size, share, seed):
    rng = np.random.default_rng(seed)
    x, mask = rng.normal(size=(models, size)).astype("f4"), rng.random((models, size)) < share
    write_sparse_shard(tmp_path / "x", {"w": x}, {"w": mask}, ABOUT)
    shard = Shard(tmp_path / "x")
    assert np.array_equal(shard.mask("w"), mask)
    assert np.array_equal(shard.tensor("w"), np.where(mask, x, 0))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "no models"),
        ({"a": np.zeros((2, 3), "f4"), "b": np.zeros((3, 3), "f4")}, r"\[2, 3\] models"),
        ({"a": np.zeros((0, 3), "f4")}, "1 to 16,384"),
        ({"a": np.zeros((16385, 1), "f4")}, "1 to 16,384"),
        ({"a": np.zeros((2, 3), np.complex64)}, "complex64"),
        ({"a": np.float32(3)}, "a tensor of a shard is"),
        ({"a": torch.zeros(2, 3, dtype=torch.bfloat16)}, "bfloat16"),
        ({"__metadata__": np.zeros((2, 3), "f4")}, "which no tensor may be"),
    ],
)
def test_what_is_no_stack_is_not_written(tmp_path, tensors, message):
    with pytest.raises(UserError, match=message):
        write_shard(tmp_path / "x", tensors, ABOUT)
    assert not (tmp_path / "x").exists()


def test_a_mask_that_does_not_fit_is_not_written(tmp_path):
    for masks in ({"w": MASK[:2]}, {"nothing": MASK}, {"w": MASK.astype(np.float32)}):
        with pytest.raises(UserError, match="a mask is bool and of the shape of its tensor"):
            write_sparse_shard(tmp_path / "x", DENSE, masks, ABOUT)
    with pytest.raises(UserError, match="is a tensor, and so is called a part"):
        write_sparse_shard(tmp_path / "x", DENSE | {"w.mask": DENSE["b"]}, {"w": MASK}, ABOUT)
    with pytest.raises(UserError, match="the metadata has no first, model"):
        write_shard(tmp_path / "x", DENSE, {"stack": "a", "epoch": 1})


def test_a_shard_cut_short_anywhere_is_refused_by_name(dense, sparse):
    for path in (dense, sparse):
        whole = path.read_bytes()
        for length in range(0, len(whole), 7):
            path.write_bytes(whole[:length])
            with pytest.raises(UserError, match=path.name):
                Shard(path)


def test_a_shard_cut_short_while_it_is_open_is_an_error_and_no_crash(dense):
    shard = Shard(dense)
    with dense.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(UserError, match="was cut short while it was read"):
        shard.tensor("w")
    with pytest.raises(UserError, match="was cut short while it was read"):
        shard.model(0)


def rewritten(path, change):
    """In place: ``change`` to the header of a shard, as a dictionary."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    said = json.loads(header["__metadata__"][KEY])
    change(header, said)
    header["__metadata__"][KEY] = json.dumps(said)
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + content[8 + length :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, s: s.update(count=5), "no bit an element of 5 models"),
        (lambda h, s: s.update(count=10**9), "says no stack"),
        (lambda h, s: s.update(epoch=-1), "says no stack"),
        (lambda h, s: s.update(epoch=True), "says no stack"),
        (lambda h, s: s.update(model=None), "says no stack"),
        (lambda h, s: s.update(shape=[0]), "says no stack"),
        (lambda h, s: s.pop("stack"), "says no stack"),
        (lambda h, s: s.update(sparse=[1]), "no object of shapes"),
        (lambda h, s: s["sparse"].update(w=[-3, 5]), "no object of shapes"),
        (lambda h, s: s["sparse"].update(w=[3, 6]), "no bit an element"),
        (lambda h, s: s["sparse"].update(w=[1 << 30, 1 << 30]), "no bit an element"),
        (lambda h, s: s["sparse"].update(b=[3]), "has not its parts"),
        (lambda h, s: s.pop("sparse"), "the shard has 4 models"),
        (lambda h, s: h["b"].update(shape=[2, 6]), "the shard has 4 models"),
        (lambda h, s: h["b"].update(shape=[1 << 40, 3]), "takes .* bytes"),
        (lambda h, s: h["b"].update(dtype="BF16", shape=[4, 6]), "which no shard has"),
        (lambda h, s: h["w.values"].update(shape=[1, int(MASK.sum())]), "no list"),
        (lambda h, s: h["w.starts"].update(dtype="F64"), "not 5 whole numbers"),
    ],
)
def test_a_header_that_lies_is_refused_before_memory_is_taken(sparse, change, message):
    rewritten(sparse, change)
    with pytest.raises(UserError, match=message) as told:
        Shard(sparse)
    assert sparse.name in str(told.value)


def test_no_metadata_of_ours_is_no_shard(tmp_path):
    safetensors.numpy.save_file(DENSE, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="has no entry 'thrifty-zoo'"):
        Shard(tmp_path / "x.safetensors")


def test_bits_that_disagree_with_the_values_are_refused_when_they_are_read(sparse):
    content = bytearray(sparse.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    begin, _ = json.loads(content[8 : 8 + length])["w.mask"]["data_offsets"]
    content[8 + length + begin] ^= 1
    sparse.write_bytes(content)
    shard = Shard(sparse)
    for read in (lambda: shard.tensor("w"), lambda: shard.model(0), lambda: shard.mask("w")):
        with pytest.raises(UserError, match="its bits and its values disagree"):
            read()
    assert np.array_equal(shard.model(1)["w"], np.where(MASK, DENSE["w"], 0)[1])


@given(st.data())
@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150
)
def test_a_damaged_shard_is_read_or_refused_and_never_crashes(tmp_path, data):
    path = tmp_path / "s-0003.safetensors"
    write_sparse_shard(path, DENSE, {"w": MASK}, ABOUT)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        shard = Shard(path)
        for name in shard.names:
            assert len(shard.tensor(name)) == shard.about.count
        shard.model(0)
    except UserError as error:
        assert path.name in str(error)


def test_an_unknown_tensor_is_suggested(dense):
    with pytest.raises(UnknownName, match="did you mean count"):
        Shard(dense).tensor("cuont")

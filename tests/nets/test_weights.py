import lzma
import os
import struct

import numpy as np
import pytest
import safetensors.torch
import torch
import zstandard
from torch import nn
from torch.nn.utils import prune

from thrifty.errors import UserError
from thrifty.nets import load_weights, read_weights, resolve


class Runs:
    """Pickled, it asks whoever loads it to make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def small():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def put(content, path, **options):
    torch.save(content, path, **options)
    return path


def equal(one, two):
    return list(one) == list(two) and all(torch.equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".bin"])
def test_both_kinds_of_torch_files_are_read(tmp_path, suffix, zipped):
    state = small().state_dict()
    file = put(state, tmp_path / f"w{suffix}", _use_new_zipfile_serialization=zipped)
    tensors, metadata = read_weights(file)
    assert equal(tensors, dict(state))
    assert metadata == {}


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "weights"])
def test_tensors_are_found_under_the_usual_keys(tmp_path, key):
    state = small().state_dict()
    file = put({"epoch": 3, key: state}, tmp_path / "w.pt")
    assert equal(read_weights(file)[0], dict(state))


def test_a_dictionary_that_holds_itself_is_refused(tmp_path):
    loop = {}
    loop["model"] = loop
    with pytest.raises(UserError, match="no tensors by name"):
        read_weights(put(loop, tmp_path / "w.pt"))


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "_orig_mod.module."])
def test_a_prefix_of_every_name_is_taken_off(tmp_path, prefix):
    source, model = small(), small()
    file = put({prefix + n: x for n, x in source.state_dict().items()}, tmp_path / "w.pt")
    load_weights(model, file)
    assert equal(model.state_dict(), source.state_dict())


def test_a_prefix_that_the_network_has_stays(tmp_path):
    source, model = nn.ModuleDict({"model": small()}), nn.ModuleDict({"model": small()})
    load_weights(model, put(source.state_dict(), tmp_path / "w.pt"))
    assert equal(model.state_dict(), source.state_dict())


def test_a_prefix_of_some_names_is_no_prefix(tmp_path):
    state = {
        ("module." if n.startswith("0") else "") + n: x for n, x in small().state_dict().items()
    }
    with pytest.raises(UserError, match=r"not in the network: module\.0\.weight"):
        load_weights(small(), put(state, tmp_path / "w.pt"))


def test_a_last_layer_may_be_called_otherwise(tmp_path):
    source, model = resolve("resnet20?width=0.25"), resolve("resnet20?width=0.25")
    state = {n.replace("linear", "fc"): x for n, x in source.state_dict().items()}
    load_weights(model, put(state, tmp_path / "w.pt"))
    assert equal(model.state_dict(), source.state_dict())


def test_counters_of_batch_norm_may_be_absent_or_extra(tmp_path):
    source, model = small(), small()
    state = {n: x for n, x in source.state_dict().items() if "tracked" not in n}
    state["other.num_batches_tracked"] = torch.tensor(3)
    load_weights(model, put(state, tmp_path / "w.pt"))
    assert torch.equal(model[0].weight, source[0].weight)


def without_statistics(model):
    return {n: x for n, x in model.state_dict().items() if "running" not in n and "track" not in n}


def test_statistics_may_be_absent_if_all_are_and_the_network_is_as_built(tmp_path):
    source, model = small(), small()
    nn.init.normal_(source[1].weight)
    load_weights(model, put(without_statistics(source), tmp_path / "w.pt"))
    assert torch.equal(model[1].weight, source[1].weight)
    assert (model[1].running_mean == 0).all() and (model[1].running_var == 1).all()


@pytest.mark.parametrize("kept", ["1.running_mean", "1.running_var", "1.num_batches_tracked"])
def test_statistics_that_are_absent_in_part_are_missing(tmp_path, kept):
    state = {**without_statistics(small()), kept: small().state_dict()[kept]}
    with pytest.raises(UserError, match=r"missing in the file: .*1\.running"):
        load_weights(small(), put(state, tmp_path / "w.pt"))


def test_statistics_are_missing_where_the_network_has_learnt_its_own(tmp_path):
    model = small()
    model(torch.rand(8, 3))
    with pytest.raises(UserError, match=r"missing in the file: 1\.running_mean; 1\.running_var"):
        load_weights(model, put(without_statistics(small()), tmp_path / "w.pt"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_another_size_are_converted(tmp_path, dtype):
    source, model = small().to(dtype), small()
    load_weights(model, put(source.state_dict(), tmp_path / "w.pt"))
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, source[0].weight.float())


def test_all_differences_are_listed_and_nothing_is_loaded(tmp_path):
    model = small()
    before = {n: x.clone() for n, x in model.state_dict().items()}
    state = model.state_dict()
    del state["0.bias"]
    state["2.weight"] = torch.ones(2, 5)
    state["1.weight"] = torch.ones(4, dtype=torch.int64)
    state.update({f"extra{i}": torch.ones(1) for i in range(13)})
    with pytest.raises(UserError) as caught:
        load_weights(model, put(state, tmp_path / "w.pt"))
    told = str(caught.value)
    assert "missing in the file: 0.bias" in told
    assert "2.weight (2, 5), network (2, 4)" in told
    assert "1.weight torch.int64, network torch.float32" in told
    assert "extra9; and 3 more" in told and "extra10" not in told
    assert equal(model.state_dict(), before)


def test_other_classes_are_told_as_such(tmp_path):
    file = put(resolve("lenet", classes=100).state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match="file is of 100 classes and the network of 10"):
        load_weights(resolve("lenet"), file)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_counted(tmp_path, bad):
    state = small().state_dict()
    state["2.weight"][0, :3] = bad
    with pytest.raises(UserError, match=r"2\.weight has 3 of 8 numbers that are NaN or infinite"):
        load_weights(small(), put(state, tmp_path / "w.pt"))


def test_a_network_pruned_by_torch_gives_its_product(tmp_path):
    pruned, model = small(), small()
    prune.random_unstructured(pruned[0], "weight", amount=5)
    load_weights(model, put(pruned.state_dict(), tmp_path / "w.pt"))
    assert torch.equal(model[0].weight, pruned[0].weight)
    assert int((model[0].weight == 0).sum()) == 5


def test_a_network_without_memory_is_told(tmp_path):
    file = put(small().state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match="device 'meta'"):
        load_weights(small().to("meta"), file)


def test_tied_tensors_may_be_in_the_file_once(tmp_path):
    def tied():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    source, model = tied(), tied()
    state = source.state_dict()
    del state["0.weight"]
    load_weights(model, put(state, tmp_path / "w.pt"))
    assert equal(model.state_dict(), source.state_dict())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, zipped):
    state = {"weight": torch.ones(2), "more": Runs(tmp_path / "ran")}
    file = put(state, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"mkdir.*would execute code.*torch\.save") as caught:
        read_weights(file)
    assert "w.pt" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_whole_module_is_refused_with_how_to_keep_its_tensors(tmp_path):
    with pytest.raises(UserError, match=r"Sequential.*\.state_dict\(\)"):
        read_weights(put(small(), tmp_path / "w.pt"))


@pytest.mark.parametrize("content", [3, [torch.ones(1)], {}, {"epoch": 3}, {"model": {}}])
def test_a_file_without_tensors_is_told(tmp_path, content):
    with pytest.raises(UserError, match="no tensors by name"):
        read_weights(put(content, tmp_path / "w.pt"))


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    file = put({"weight": torch.ones(1).expand(1 << 40)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="claims"):
        read_weights(file)


def test_a_sparse_tensor_is_refused(tmp_path):
    file = put({"weight": torch.eye(3).to_sparse()}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="no ordinary tensor"):
        read_weights(file)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.safetensors.zst"])
@pytest.mark.parametrize("content", [b"", b"abc", b"PK\x03\x04" + b"z" * 90, b"\x80\x02}q\x00."])
def test_what_is_no_weight_file_is_told_with_its_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_cut_anywhere_is_told(tmp_path, zipped):
    file = put(small().state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    content = file.read_bytes()
    for size in range(1, len(content) - 1, 97):
        file.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"w\.pt"):
            read_weights(file)


def test_missing_files_folders_and_other_kinds_are_told(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        read_weights(tmp_path / "gone.pt")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        read_weights(tmp_path / "folder.pt")
    with pytest.raises(UserError, match="no known kind"):
        read_weights(tmp_path / "w.txt")


@pytest.mark.parametrize("name", ["w.safetensors.xz", "w.npz", "w.safetensors.index.json"])
def test_what_is_read_by_other_readers_is_checked_as_well(tmp_path, name):
    (tmp_path / name).write_bytes(b"no")
    with pytest.raises(UserError, match=name):
        read_weights(tmp_path / name)


def test_arrays_of_numpy_fill_a_network(tmp_path):
    source, model = small(), small()
    arrays = {n: x.numpy() for n, x in source.state_dict().items()}
    np.savez_compressed(tmp_path / "w.npz", **arrays)
    load_weights(model, tmp_path / "w.npz")
    assert equal(model.state_dict(), source.state_dict())


def test_weights_of_another_framework_are_told_as_such(tmp_path):
    np.save(tmp_path / "w.npy", np.ones(3))
    with pytest.raises(UserError, match="no known kind.*another framework's.*thrifty look"):
        read_weights(tmp_path / "w.npy")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.uint16])
def test_every_dtype_comes_through_a_reader(tmp_path, dtype):
    x = torch.tensor([0, 1, 1]).to(dtype)
    content = lzma.compress(safetensors.torch.save({"x": x}))
    (tmp_path / "w.safetensors.xz").write_bytes(content)
    found = read_weights(tmp_path / "w.safetensors.xz")[0]["x"]
    assert found.dtype is dtype and torch.equal(found.float(), x.float())


def test_safetensors_of_others_are_read_with_their_metadata(tmp_path):
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors", {"by": "others"})
    tensors, metadata = read_weights(tmp_path / "w.safetensors")
    assert torch.equal(tensors["a"], torch.ones(2))
    assert metadata == {"by": "others"}


def test_a_frame_that_declares_too_much_is_refused_before_memory_is_taken(tmp_path):
    bomb = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 40) + b"\0" * 20
    (tmp_path / "w.safetensors.zst").write_bytes(bomb)
    with pytest.raises(UserError, match="1,099,511,627,776 bytes of content"):
        read_weights(tmp_path / "w.safetensors.zst")


def test_a_frame_that_compresses_too_well_is_refused(tmp_path):
    content = zstandard.compress(bytes((256 << 20) + 1))
    (tmp_path / "w.safetensors.zst").write_bytes(content)
    with pytest.raises(UserError, match="1000 times"):
        read_weights(tmp_path / "w.safetensors.zst")


def test_a_frame_without_a_size_is_refused(tmp_path):
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    (tmp_path / "w.safetensors.zst").write_bytes(compressor.compress(b"x" * 99))
    with pytest.raises(UserError, match="does not say how large"):
        read_weights(tmp_path / "w.safetensors.zst")


@pytest.mark.real
@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("resnet20", "resnet20-12fca82f.th"),
        ("resnet32", "resnet32-d509ac18.th"),
        ("resnet20?shortcut=projection", "distiller-resnet20-dense.safetensors"),
    ],
)
def test_published_weights_fit(published, model, file):
    tensors, _ = read_weights(published / file)
    loaded = resolve(model, weights=published / file)
    stem = next(x for n, x in tensors.items() if n in ("conv1.weight", "module.conv1.weight"))
    assert torch.equal(loaded.conv1.weight, stem)
    assert loaded.eval()(torch.zeros(1, 3, 32, 32)).isfinite().all()


@pytest.mark.real
def test_published_weights_of_another_depth_do_not_fit(published):
    with pytest.raises(UserError, match="not in the network"):
        resolve("resnet20", weights=published / "resnet32-d509ac18.th")


@pytest.mark.real
@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("squeezenet", "squeezenet1.0-deepcompressed-ilsvrc.safetensors.xz"),
        ("torchvision:resnet18", "resnet18-pq-small-ilsvrc.safetensors.xz"),
        ("torchvision:resnet18", "resnet18-pq-large-ilsvrc.safetensors.xz"),
    ],
)
def test_published_weights_of_a_thousand_classes_fit(published, model, file):
    loaded = resolve(model, weights=published.parent / file).eval()
    assert loaded(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)

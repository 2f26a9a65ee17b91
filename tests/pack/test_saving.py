import json
import struct
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from thrifty.errors import UserError
from thrifty.nets import NETS, Architecture, architecture_of, read_weights, resolve
from thrifty.nets.architecture import remember
from thrifty.nets.stored import rebuilt
from thrifty.pack import load, save

SUFFIXES = [".safetensors", ".safetensors.zst"]


def tiny():
    torch.manual_seed(0)
    return resolve("lenet?width=0.1", classes=3, shape=(1, 8, 8))


def tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


def headed(header, path, tensors=None):
    """A file whose header says ``header``."""
    text = header if isinstance(header, str) else json.dumps(header)
    tensors = tiny().state_dict() if tensors is None else tensors
    safetensors.torch.save_file(dict(tensors), path, {"thrifty": text})
    return path


def said(**changes):
    header = {"format": 1, "model": "lenet?width=0.1", "classes": 3, "shape": [1, 8, 8]}
    return {**header, **changes}


def equal(one, two):
    a, b = one.state_dict(), two.state_dict()
    return list(a) == list(b) and all(
        a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a
    )


def test_a_home_that_is_nobody_s_is_told():
    with pytest.raises(UserError, match="is no path"):
        save(tiny(), "~no-such-person-here/m.safetensors")


def test_the_size_is_that_of_the_file(tmp_path):
    size = save(tiny(), tmp_path / "new" / "m.safetensors")
    assert size == (tmp_path / "new" / "m.safetensors").stat().st_size
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["m.safetensors"]


def test_a_suffix_of_no_format_is_told_with_those_that_are(tmp_path):
    with pytest.raises(UserError, match=r"\.safetensors, \.safetensors\.zst"):
        save(tiny(), tmp_path / "m.onnxx")
    with pytest.raises(UserError, match="is a folder"):
        (tmp_path / "m.safetensors").mkdir()
        save(tiny(), tmp_path / "m.safetensors")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_metadata_of_the_caller_is_kept(tmp_path, suffix):
    save(tiny(), tmp_path / f"m{suffix}", metadata={"accuracy": "97.5", "b": "\u00e9"})
    _, metadata = read_weights(tmp_path / f"m{suffix}")
    assert metadata["accuracy"] == "97.5" and metadata["b"] == "\u00e9"
    assert json.loads(metadata["thrifty"]) == said()


@pytest.mark.parametrize("metadata", [{"thrifty": "x"}, {"a": 3}, {3: "a"}])
def test_metadata_that_cannot_be_written_is_told(tmp_path, metadata):
    with pytest.raises(UserError, match="metadata has"):
        save(tiny(), tmp_path / "m.safetensors", metadata=metadata)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_networks_give_equal_bytes(tmp_path, suffix):
    metadata = {str(i): "x" for i in range(9)}
    for name in "ab":
        save(tiny(), tmp_path / f"{name}{suffix}", metadata=metadata)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_masked_weights_are_written_as_zero_and_the_network_stays(tmp_path):
    model = tiny()
    before = model.fc1.weight.detach().clone()
    mask = torch.rand(before.shape) < 0.5
    save(model, tmp_path / "m.safetensors", masks={"fc1.weight": mask})
    again = load(tmp_path / "m.safetensors")
    assert torch.equal(again.fc1.weight, before * mask)
    assert torch.equal(model.fc1.weight, before)


@pytest.mark.parametrize(
    ("name", "mask", "told"),
    [
        ("fc9.weight", torch.ones(1, dtype=torch.bool), "no such tensor"),
        ("fc1.bias", torch.ones(99, dtype=torch.bool), "of the shape"),
        ("fc1.bias", torch.ones(12), "torch.bool"),
    ],
)
def test_a_mask_that_does_not_fit_is_told(tmp_path, name, mask, told):
    with pytest.raises(UserError, match=told):
        save(tiny(), tmp_path / "m.safetensors", masks={name: mask})


def test_views_of_one_buffer_are_written_apart(tmp_path):
    model = tiny()
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    start = 0
    for p in model.parameters():
        p.data = flat[start : start + p.numel()].view(p.shape)
        start += p.numel()
    model.fc2.weight.data = model.fc2.weight.data.t().contiguous().t()
    save(model, tmp_path / "m.safetensors")
    assert equal(load(tmp_path / "m.safetensors"), model)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tied_tensors_are_written_once_and_read_under_both_names(tmp_path, suffix):
    model = tied()
    save(model, tmp_path / f"m{suffix}")
    tensors, metadata = read_weights(tmp_path / f"m{suffix}")
    assert json.loads(metadata["thrifty"])["tied"] == {"1.weight": "0.weight"}
    assert set(tensors) == set(model.state_dict())
    again = resolve(tied(), weights=tmp_path / f"m{suffix}")
    assert equal(again, model)
    assert again[1].weight is again[0].weight


def test_a_tied_network_is_built_tied(tmp_path, monkeypatch):
    monkeypatch.setitem(NETS._things, "tied_for_test", tied)
    model = resolve("tied_for_test").half()
    save(model, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert equal(again, model)
    assert again[1].weight is again[0].weight


def test_loading_draws_no_random_numbers(tmp_path):
    save(tiny(), tmp_path / "m.safetensors")
    before = torch.get_rng_state()
    load(tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_is_restored(tmp_path, dtype):
    model = resolve("resnet20?width=0.25").to(dtype)
    save(model, tmp_path / "m.safetensors")
    assert equal(load(tmp_path / "m.safetensors"), model)


def test_what_could_not_be_read_back_is_not_written(tmp_path):
    model = tiny()
    with torch.no_grad():
        model.fc1.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"fc1\.weight has 1 of"):
        save(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_may_not_choose_code_to_run(tmp_path, monkeypatch):
    (tmp_path / "chosen.py").write_text("import os\ndef f(): os.mkdir('ran')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="would let it choose code to run.*--weights"):
        load(headed(said(model="chosen:f"), tmp_path / "m.safetensors"))
    assert not (tmp_path / "ran").exists()


def test_a_network_of_the_user_s_own_is_loaded_by_naming_it(tmp_path):
    model = remember(tied(), Architecture("my.package:tied", None, None))
    save(model, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="names the network 'my.package:tied'"):
        load(tmp_path / "m.safetensors")
    assert equal(resolve(tied(), weights=tmp_path / "m.safetensors"), model)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("3", "no JSON object"),
        (said(format=3), "reads formats 1 and 2; upgrade"),
        (said(model=None), "does not say of which network"),
        (said(model=3), "is no network"),
        (said(classes="3"), "is no network"),
        (said(classes=1 << 40), "is no network"),
        (said(shape=[1, 8, -8]), "is no network"),
        (said(shape=[1 << 60]), "is no network"),
        (said(model="lenot"), "names the network 'lenot'"),
        (said(model="lenet?width=0.1&width=1"), "twice"),
        (said(model="lenet?width<0.1"), "names no network"),
        (said(model="lenet?width=200000"), "of another shape"),
        (said(model="lenet_300_100", shape=[1 << 20] * 9), "cannot be built"),
        (said(model="lenet?width=-1"), "cannot be built"),
        (said(model="lenet?width=0.1&depth=9"), "no option 'depth'"),
        (said(classes=4), "file is of 3 classes and the network of 4"),
        (said(model="resnet20"), "missing in the file"),
        (said(model="torchvision:resnet18?weights=DEFAULT"), "weights=DEFAULT is refused"),
        (said(model="timm:resnet18?pretrained=true"), "pretrained=True is refused"),
        (said(model="timm:resnet18?checkpoint_path=x.pth"), "is refused"),
        (said(model="timm:vit_tiny_patch16_224?depth=1000000"), "is refused"),
        (said(model="torchvision:resnet18?num_classes=1e300"), "is refused"),
        (said(tied=[]), "no object of names"),
        (said(tied={"a": "b"}), "does not hold"),
        (said(tied={"fc1.bias": "fc2.bias"}), "does not hold"),
        (said(tied={"a": []}), "does not hold"),
    ],
)
def test_a_header_that_lies_is_told(tmp_path, header, told):
    with pytest.raises(UserError, match=told) as caught:
        load(headed(header, tmp_path / "m.safetensors"))
    assert "m.safetensors" in str(caught.value)


def test_safetensors_of_others_are_no_network(tmp_path):
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="does not say of which network"):
        load(tmp_path / "m.safetensors")


def test_the_network_is_that_of_the_header(tmp_path):
    tensors, metadata = dict(tiny().state_dict()), {"thrifty": json.dumps(said())}
    model = rebuilt(tensors, metadata, tmp_path)
    assert architecture_of(model) == Architecture("lenet?width=0.1", 3, (1, 8, 8))


def _whole(suffix):
    with tempfile.TemporaryDirectory() as folder:
        save(tiny(), Path(folder) / f"m{suffix}")
        return (Path(folder) / f"m{suffix}").read_bytes()


WHOLE = {suffix: _whole(suffix) for suffix in SUFFIXES}
CHANGE = st.tuples(st.sampled_from(["flip", "cut", "insert", "drop"]), st.floats(0, 1), st.binary())


def changed(content, changes, reach):
    """``content`` with bytes changed within its first ``reach`` share."""
    for kind, place, extra in changes:
        at = int(place * reach * (len(content) - 1)) if content else 0
        if kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + extra + content[at:]
        elif kind == "drop":
            content = content[:at] + content[at + 1 + len(extra) :]
        elif content:
            byte = content[at] ^ (extra[0] if extra else 1)
            content = content[:at] + bytes([byte]) + content[at + 1 :]
    return content


@settings(max_examples=150, deadline=None)
@given(changes=st.lists(CHANGE, min_size=1, max_size=3), reach=st.sampled_from([0.01, 0.2, 1.0]))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_changed_file_is_an_error_of_ours_or_a_network(suffix, changes, reach):
    """The compressed file has a checksum: what loads is the network that was saved."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"m{suffix}"
        file.write_bytes(changed(WHOLE[suffix], changes, reach))
        try:
            model = load(file)
        except UserError as error:
            assert str(file) in str(error)
            return
    assert isinstance(model, nn.Module)
    if suffix == ".safetensors.zst":
        assert equal(model, tiny())


@settings(max_examples=150, deadline=None)
@given(changes=st.lists(CHANGE, min_size=1, max_size=3))
def test_a_changed_header_is_an_error_of_ours_or_a_network(changes):
    content = WHOLE[".safetensors"]
    (length,) = struct.unpack("<Q", content[:8])
    header = changed(content[8 : 8 + length], changes, 1.0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "m.safetensors"
        file.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
        try:
            assert isinstance(load(file), nn.Module)
        except UserError as error:
            assert str(file) in str(error)

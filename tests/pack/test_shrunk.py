"""Networks with channels removed in files: the same comes back, and lies do not."""

import importlib.util
import json
import random
import struct
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import thrifty
from thrifty.cli import main
from thrifty.errors import UserError
from thrifty.nets import NETS, architecture_of, count_macs, load_weights, read_weights
from thrifty.nets.shrunk import shrunk_of

SUFFIXES = [".safetensors", ".safetensors.zst"]
NET, DIGITS = "resnet20?width=0.5", "digits?train=200&test=100"
ZOO = {
    "torchvision:resnet18": (3, 64, 64),
    "torchvision:mobilenet_v2": (3, 32, 32),
    "torchvision:densenet121": (3, 32, 32),
    "torchvision:googlenet": (3, 64, 64),
    "torchvision:shufflenet_v2_x0_5": (3, 32, 32),
    "torchvision:resnext50_32x4d": (3, 32, 32),
    "timm:vit_tiny_patch16_224?img_size=32": (3, 32, 32),
}


def installed(package):
    # pytest.importorskip would import torchvision, whose operators may be missing.
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def built(name, shape=None, classes=None):
    """A network whose norms shift, so that what is removed leaves constants behind."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = thrifty.resolve(name, shape=shape, classes=classes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    return model


def shrunk(model, example, share=1 / 3):
    """Without a share of the units of every group."""
    found = thrifty.groups(model, example)
    kept = {}
    for group in found.free:
        keep = torch.ones(group.units, dtype=torch.bool)
        keep[-max(1, int(group.units * share)) :] = False
        if bool(keep.any()):
            kept[group.name] = keep
    return thrifty.shrink(model, None, example, kept=kept).eval()


def inputs(shape, n=2):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))


def small(share=1 / 3):
    return shrunk(built(NET, (1, 8, 8)), inputs((1, 8, 8)), share)


def params(model):
    return sum(p.numel() for p in model.parameters())


def equal(one, two):
    a, b = one.state_dict(), two.state_dict()
    return list(a) == list(b) and all(
        a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a
    )


def header_of(path):
    return json.loads(read_weights(path)[1]["thrifty"])


def rewritten(path, header=None, **tensors):
    """The file with another entry of ours, and other tensors."""
    held, metadata = read_weights(path)
    entry = {**json.loads(metadata["thrifty"]), **(header or {})}
    held = {n: x for n, x in {**held, **tensors}.items() if x is not None}
    safetensors.torch.save_file(held, path, {"thrifty": json.dumps(entry)})
    return path


@pytest.mark.parametrize("name", NETS.names())
def test_what_was_shrunk_comes_back_bit_for_bit(name, tmp_path):
    model = built(name)
    example = inputs(architecture_of(model).shape)
    less = shrunk(model, example)
    thrifty.save(less, tmp_path / "m.safetensors")
    again = thrifty.load(tmp_path / "m.safetensors").eval()
    assert params(less) < params(model)
    assert equal(again, less)
    assert shrunk_of(again) == shrunk_of(less)
    with torch.no_grad():
        assert torch.equal(again(example), less(example))


@pytest.mark.parametrize("name", ZOO)
def test_published_networks_come_back_bit_for_bit(name, tmp_path):
    installed(name.partition(":")[0])
    model, example = built(name, classes=5), inputs(ZOO[name])
    less = shrunk(model, example)
    thrifty.save(less, tmp_path / "m.safetensors")
    again = thrifty.load(tmp_path / "m.safetensors").eval()
    assert params(less) < 0.8 * params(model)
    assert equal(again, less)
    with torch.no_grad():
        assert torch.equal(again(example), less(example))


def test_removed_heads_are_in_the_header_and_counted_again(tmp_path):
    installed("timm")
    name = "timm:vit_tiny_patch16_224?img_size=32"
    thrifty.save(shrunk(built(name), inputs((3, 32, 32))), tmp_path / "m.safetensors")
    said = header_of(tmp_path / "m.safetensors")["shrunk"]["attributes"]
    assert said["blocks.0.attn"]["num_heads"] == 2
    assert thrifty.load(tmp_path / "m.safetensors").blocks[0].attn.num_heads == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_both_formats_and_dtypes_come_back(tmp_path, suffix):
    less = small().to(torch.bfloat16)
    size = thrifty.save(less, tmp_path / f"m{suffix}")
    assert size < thrifty.save(built(NET, (1, 8, 8)).to(torch.bfloat16), tmp_path / f"f{suffix}")
    assert equal(thrifty.load(tmp_path / f"m{suffix}"), less)


def test_biases_that_folding_added_come_back(tmp_path):
    installed("torchvision")
    less = shrunk(built("torchvision:densenet121"), inputs((3, 32, 32)))
    thrifty.save(less, tmp_path / "m.safetensors")
    full = thrifty.resolve("torchvision:densenet121")
    added = set(less.state_dict()) - set(full.state_dict())
    assert added and all(name.endswith(".bias") for name in added)
    assert equal(thrifty.load(tmp_path / "m.safetensors"), less)


def test_a_network_shrunk_twice_and_saved_between_comes_back(tmp_path):
    once = small()
    thrifty.save(once, tmp_path / "1.safetensors")
    again = thrifty.load(tmp_path / "1.safetensors").eval()
    twice = shrunk(again, inputs((1, 8, 8)))
    thrifty.save(twice, tmp_path / "2.safetensors")
    last = thrifty.load(tmp_path / "2.safetensors")
    assert params(last) == params(twice) < params(once)
    assert equal(last, twice)


def test_heads_removed_twice_come_back(tmp_path):
    installed("timm")
    less = built("timm:vit_tiny_patch16_224?img_size=32&num_classes=5")
    for heads in (2, 1):
        less = shrunk(less, inputs((3, 32, 32)))
        assert less.blocks[0].attn.num_heads == heads
        thrifty.save(less, tmp_path / "m.safetensors")
        assert equal(thrifty.load(tmp_path / "m.safetensors"), less)


def test_a_network_that_lost_nothing_is_an_ordinary_one(tmp_path):
    model = built(NET, (1, 8, 8))
    same = thrifty.shrink(model, {}, inputs((1, 8, 8)), kept={} or None)
    thrifty.save(same, tmp_path / "m.safetensors")
    assert header_of(tmp_path / "m.safetensors")["format"] == 1


def test_the_format_is_one_that_older_versions_refuse(tmp_path):
    thrifty.save(small(), tmp_path / "m.safetensors")
    said = header_of(tmp_path / "m.safetensors")
    assert said["format"] == 2
    assert said["shrunk"]["inputs"] == [["float32", [2, 1, 8, 8]]]


def test_equal_networks_give_equal_files(tmp_path):
    for name in "ab":
        thrifty.save(small(), tmp_path / f"{name}.safetensors")
    one, two = (tmp_path / f"{name}.safetensors" for name in "ab")
    assert one.read_bytes() == two.read_bytes()


class Rooted(nn.Module):
    """A buffer of channels that no state dict has."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 1)
        self.register_buffer("gain", torch.linspace(1, 2, 8).reshape(1, 8, 1, 1), persistent=False)

    def forward(self, x):
        return self.second(functional.relu(self.first(x)) * self.gain).mean((2, 3))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight
        self.start = nn.Linear(4, 6)

    def forward(self, x):
        x = functional.relu(self.start(x))
        return self.third(functional.relu(self.second(functional.relu(self.first(x)))))


def test_buffers_that_are_not_saved_otherwise_come_back(tmp_path, monkeypatch):
    monkeypatch.setitem(NETS._things, "rooted_for_test", Rooted)
    less = shrunk(thrifty.resolve("rooted_for_test"), inputs((1, 8, 8)))
    assert less.gain.shape[1] == 6
    thrifty.save(less, tmp_path / "m.safetensors")
    again = thrifty.load(tmp_path / "m.safetensors").eval()
    assert torch.equal(again.gain, less.gain)
    assert torch.equal(again(inputs((1, 8, 8))), less(inputs((1, 8, 8))))


def test_tied_layers_stay_tied(tmp_path, monkeypatch):
    monkeypatch.setitem(NETS._things, "tied_for_test", Tied)
    less = shrunk(thrifty.resolve("tied_for_test"), inputs((4,)))
    assert less.first.weight is less.second.weight and less.first.weight.shape == (4, 4)
    thrifty.save(less, tmp_path / "m.safetensors")
    again = thrifty.load(tmp_path / "m.safetensors")
    assert again.first.weight is again.second.weight
    assert equal(again, less)


# What is done with a loaded network


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("shrunk") / "m.safetensors"
    thrifty.save(small(), path)
    return path


def test_macs_are_those_of_the_smaller_network(file):
    full = built(NET, (1, 8, 8))
    assert count_macs(thrifty.load(file), (1, 8, 8)) == count_macs(small(), (1, 8, 8))
    assert count_macs(thrifty.load(file), (1, 8, 8)) < count_macs(full, (1, 8, 8))


def test_a_loaded_network_is_measured_and_masked(file, tmp_path):
    model = thrifty.resolve(file)
    assert thrifty.measure(model, DIGITS).params == params(small())
    masks = thrifty.prune(model, "magnitude", thrifty.Budget(0.5))
    thrifty.save(model, tmp_path / "m.safetensors", masks=dict(masks))
    again = thrifty.load(tmp_path / "m.safetensors")
    assert again.conv1.weight.shape == model.conv1.weight.shape
    assert thrifty.measure(again, DIGITS).sparsity == pytest.approx(0.5, abs=0.01)


def test_a_loaded_network_trains(file):
    model = thrifty.load(file)
    loss = functional.cross_entropy(model(inputs((1, 8, 8), 4)), torch.arange(4))
    loss.backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


def test_onnx_gives_what_torch_gives(file, tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, x = thrifty.load(file).eval(), inputs((1, 8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), tmp_path / "m.onnx", input_names=["x"], dynamo=False)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(x), atol=1e-5, rtol=1e-5)


def test_look_reads_the_smaller_tensors(file, capsys):
    main(["look", str(file), "--all", "--per-layer", "--json"])
    said = json.loads(capsys.readouterr().out).values()
    rows = [row for v in said if isinstance(v, list) for row in v if isinstance(row, dict)]
    shapes = {row["tensor"]: row["shape"] for row in rows if "tensor" in row}
    assert shapes == {n: list(x.shape) for n, x in small().state_dict().items()}


QUICK = ["--seeds", "1", "--epochs", "1", "--sparsity", ".5", "--workers", "1", "-q"]
QUICK += ["--set", "latency=false", "control=false", "random=false"]


@pytest.mark.parametrize("how", ["as the network", "as weights"])
def test_the_command_prunes_a_shrunk_network_further(file, tmp_path, monkeypatch, how):
    monkeypatch.setitem(sys.modules, "altair", None)
    model = [str(file)] if how == "as the network" else [NET, "--weights", str(file)]
    out = tmp_path / "run"
    main(["prune", *model, "--data", DIGITS, *QUICK, "--out", str(out)])
    saved = sorted(out.rglob("model.safetensors*"))
    assert saved
    assert {params(thrifty.load(path)) for path in saved} == {params(small())}


def test_weights_of_a_shrunk_network_resize_the_one_they_name(file):
    model = thrifty.resolve(NET, weights=file, classes=10, shape=(1, 8, 8))
    assert equal(model, small())
    assert shrunk_of(model) == shrunk_of(small())


@pytest.mark.parametrize("other", [{"classes": 12}, {"shape": (3, 8, 8)}])
def test_weights_of_a_shrunk_network_do_not_resize_another(file, other):
    with pytest.raises(UserError, match="channels were removed from the network in the file"):
        thrifty.resolve(NET, weights=file, **{"classes": 10, "shape": (1, 8, 8), **other})


def test_a_module_that_is_given_is_not_resized_unasked(file):
    model = built(NET, (1, 8, 8))
    with pytest.raises(UserError, match="resize=True"):
        thrifty.resolve(model, weights=file)
    load_weights(model, file, resize=True)
    assert equal(model, small())


# Files that lie


def told(path, match):
    with pytest.raises(UserError, match=match) as caught:
        thrifty.load(path)
    assert str(path) in str(caught.value)


def entry(**changes):
    said = {"attributes": {}, "buffers": [], "inputs": [["float32", [2, 1, 8, 8]]]}
    return {"shrunk": {**said, **changes}}


@pytest.fixture
def lying(file, tmp_path):
    def make(header=None, **tensors):
        path = tmp_path / "m.safetensors"
        path.write_bytes(file.read_bytes())
        return rewritten(path, header, **{n.replace("__", "."): x for n, x in tensors.items()})

    return make


@pytest.mark.parametrize(
    "said",
    [
        None,
        3,
        [],
        {},
        {"attributes": []},
        {"attributes": {"layer1": 3}},
        {"attributes": {"layer1": {"num_heads": 0}}},
        {"attributes": {"layer1": {"num_heads": "2"}}},
        {"attributes": {"layer1": {"num_heads": True}}},
        {"attributes": {"layer1": {"num_heads": 1 << 60}}},
        {"attributes": {"layer1": {"forward": 1}}},
        {"attributes": {}, "inputs": 3},
        {"attributes": {}, "inputs": [["complex64", [1]]]},
        {"attributes": {}, "inputs": [["float32", [0]]]},
        {"attributes": {}, "inputs": [["float32", [1 << 20] * 9]]},
        {"attributes": {}, "inputs": [[["float32"], [1]]]},
        {"attributes": {}, "buffers": "gain"},
        {"attributes": {}, "buffers": [3]},
    ],
)
def test_an_entry_that_describes_nothing_is_told(lying, said):
    told(lying({"shrunk": said}), "does not describe a network with channels removed")


def test_heads_of_a_module_without_any_are_told(lying):
    said = {"layer1": {"num_heads": 1}}
    told(lying(entry(attributes=said)), "num_heads of the module 'layer1'.*it is None")
    told(lying(entry(attributes={"\ud800": {"heads": 1}})), "module '.ud800'")


def test_heads_that_no_tensor_lost_are_told(tmp_path):
    installed("timm")
    less = shrunk(built("timm:vit_tiny_patch16_224?img_size=32"), inputs((3, 32, 32)))
    thrifty.save(less, tmp_path / "m.safetensors")
    said = header_of(tmp_path / "m.safetensors")["shrunk"]
    for number, why in ((1, "no tensor in it is smaller by as much"), (4, "it is 3")):
        said["attributes"]["blocks.0.attn"]["num_heads"] = number
        told(rewritten(tmp_path / "m.safetensors", {"shrunk": said}), why)
    said["attributes"]["blocks.0.attn"]["num_heads"] = 3
    told(rewritten(tmp_path / "m.safetensors", {"shrunk": said}), "do not go together")
    del said["attributes"]["blocks.0.attn"]
    told(rewritten(tmp_path / "m.safetensors", {"shrunk": said}), "does not say how many heads")


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"conv1__weight": torch.ones(99, 1, 3, 3)}, "of another shape"),
        ({"conv1__weight": torch.ones(6, 1, 9)}, "of another shape"),
        ({"conv1__weight": torch.ones(0, 1, 3, 3)}, "of another shape"),
        ({"conv1__weight": torch.ones(6, 1, 1, 1)}, "the kernel was"),
        ({"conv1__weight": torch.ones(3, 1, 3, 3)}, "do not go together"),
        ({"conv1__weight": torch.ones(6, 1, 3, 3, dtype=torch.int64)}, "of another type"),
        ({"conv1__weight": None}, "missing in the file"),
        ({"conv1__bias": torch.ones(5)}, "a bias of shape"),
        ({"conv1__bias": torch.ones(99)}, "of another shape"),
        ({"bn1__bias": torch.ones(5)}, "the tensors of a norm have one shape"),
        ({"bn1__running_mean": torch.ones(1)}, "the tensors of a norm have one shape"),
        ({"linear__weight": torch.ones(3, 22), "linear__bias": torch.ones(3)}, "do not go"),
        ({"other__bias": torch.ones(5)}, "not in the network"),
    ],
)
def test_sizes_that_do_not_go_together_are_told(lying, tensors, why):
    told(lying(**tensors), why)


def test_fewer_outputs_are_told(lying, file):
    columns = read_weights(file)[0]["linear.weight"].shape[1]
    path = lying(linear__weight=torch.ones(3, columns), linear__bias=torch.ones(3))
    told(path, r"the outputs would be \[2, 3\] instead of \[2, 10\]")


def test_sizes_are_tried_on_the_input_of_the_network_if_no_other_is_known(lying):
    path = lying({"shrunk": {"attributes": {}}}, conv1__weight=torch.ones(3, 1, 3, 3))
    told(path, "do not go together")


def test_groups_that_do_not_divide_are_told(tmp_path):
    installed("torchvision")
    less = shrunk(built("torchvision:resnext50_32x4d"), inputs((3, 32, 32)))
    thrifty.save(less, tmp_path / "m.safetensors")
    name = "layer1.0.conv2.weight"
    cut = {name: read_weights(tmp_path / "m.safetensors")[0][name][:-1].clone()}
    told(rewritten(tmp_path / "m.safetensors", None, **cut), "make no whole groups of 4")


def test_the_size_of_the_network_bounds_what_a_header_may_ask_for(lying):
    path = lying({**entry(inputs=[["float32", [1, 1, 1 << 15, 1 << 15]]])})
    assert equal(thrifty.load(path), small())  # tried without memory


def test_a_shrunk_file_that_says_it_is_not_is_told(lying):
    told(lying({"format": 1}), "channels were removed from the network in the file")


def _whole(suffix):
    with tempfile.TemporaryDirectory() as folder:
        thrifty.save(small(0.7), Path(folder) / f"m{suffix}")
        return (Path(folder) / f"m{suffix}").read_bytes()


WHOLE = {suffix: _whole(suffix) for suffix in SUFFIXES}


def loaded(content):
    """The network in such a file, None if it is an error of ours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.safetensors"
        path.write_bytes(content)
        try:
            return thrifty.load(path)
        except UserError as error:
            assert str(path) in str(error)
            return None


def runs(model):
    with torch.no_grad():
        return model.eval()(inputs((1, 8, 8))).shape == (2, 10)


def split(content):
    (length,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + length], content[8 + length :]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), count=st.integers(1, 3))
def test_a_header_with_changed_bytes_is_an_error_of_ours_or_a_network(seed, count):
    draw = random.Random(seed)
    header, rest = split(WHOLE[".safetensors"])
    changed = bytearray(header)
    for _ in range(count):
        changed[draw.randrange(len(changed))] = draw.choice(b'0123456789"{}[],:abx\\ ')
    model = loaded(struct.pack("<Q", len(changed)) + bytes(changed) + rest)
    assert model is None or isinstance(model, nn.Module)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_tensors_of_drawn_sizes_are_an_error_of_ours_or_a_network_that_runs(data):
    """Each tensor that is drawn becomes smaller or larger along a dimension."""
    held = safetensors.torch.load(WHOLE[".safetensors"])
    header, _ = split(WHOLE[".safetensors"])
    for name in data.draw(st.lists(st.sampled_from(sorted(held)), min_size=1, max_size=3)):
        x = held[name]
        if x.dim():
            dim = data.draw(st.integers(0, x.dim() - 1))
            held[name] = torch.ones(
                [data.draw(st.integers(1, 9)) if d == dim else n for d, n in enumerate(x.shape)],
                dtype=x.dtype,
            )
    entry = json.loads(header)["__metadata__"]
    model = loaded(safetensors.torch.save(held, entry))
    assert model is None or runs(model)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
NUMBERS = st.dictionaries(
    st.sampled_from(["", "conv1", "layer1", "layer1.0", "linear"]) | st.text(max_size=3),
    st.dictionaries(st.sampled_from(["num_heads", "heads", "inner_dim", "groups"]), st.integers()),
    max_size=2,
)
INPUTS = st.lists(
    st.tuples(
        st.sampled_from(["float32", "int64", "bool"]),
        st.lists(st.sampled_from([1, 2, 8, 1 << 20]) | st.integers(), max_size=5),
    ),
    max_size=3,
)


@settings(max_examples=100, deadline=None)
@given(
    said=JSON
    | st.fixed_dictionaries(
        {"attributes": NUMBERS | JSON},
        optional={"inputs": INPUTS | JSON, "buffers": st.lists(st.text(max_size=3)) | JSON},
    )
)
def test_any_entry_is_an_error_of_ours_or_the_network(said):
    header, rest = split(WHOLE[".safetensors"])
    metadata = json.loads(header)["__metadata__"]
    metadata["thrifty"] = json.dumps({**json.loads(metadata["thrifty"]), "shrunk": said})
    held = safetensors.torch.load(WHOLE[".safetensors"])
    model = loaded(safetensors.torch.save(held, metadata))
    assert model is None or runs(model)


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 1), flip=st.integers(0, 255))
def test_a_changed_compressed_file_is_an_error_of_ours_or_what_was_saved(share, flip):
    content = bytearray(WHOLE[".safetensors.zst"])
    content[int(share * (len(content) - 1))] ^= flip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.safetensors.zst"
        path.write_bytes(bytes(content))
        try:
            model = thrifty.load(path)
        except UserError as error:
            assert str(path) in str(error)
            return
    assert equal(model, small(0.7))

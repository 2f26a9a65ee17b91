"""The highway network: its counts and sizes, its carry path, and narrowed ones in files."""

import copy
import importlib.util
import json

import pytest
import safetensors.torch
import torch
from torch import nn

import thrifty
from thrifty.errors import UserError
from thrifty.nets import count_macs, load_weights
from thrifty.nets.highway import HighwayBlock
from thrifty.nets.shrunk import Shrunk, remember_shrunk
from thrifty.pack import load, save
from thrifty.pack.exporting import export
from thrifty.pack.packing import pack

SMALL = "highway?width=1&blocks=2"
MIB = 2**20


def block(inputs=4, outputs=4, stride=1):
    torch.manual_seed(0)
    return HighwayBlock(inputs, outputs, stride).eval()


def narrowed(model, kept_of):
    """In place: every block with only the channels of H that ``kept_of`` gives for its count."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, HighwayBlock):
                kept = kept_of(module.h.out_channels)
                module.kept = module.kept[kept]
                h, t = module.h, module.t
                h.weight, h.bias = nn.Parameter(h.weight[kept]), nn.Parameter(h.bias[kept])
                t.weight = nn.Parameter(t.weight[kept][:, kept])
                t.bias = nn.Parameter(t.bias[kept])
                h.out_channels = t.in_channels = t.out_channels = len(kept)
    remember_shrunk(model, Shrunk())
    return model


def quarter(count):
    return torch.arange(0, count, 4)


def floats(path):
    """Bytes of the numbers that are no counters and no positions in a plain file."""
    tensors = safetensors.torch.load_file(path)
    return sum(x.numel() * x.element_size() for x in tensors.values() if x.is_floating_point())


def test_the_full_network_has_the_weights_of_its_document():
    model = thrifty.resolve("highway")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    of_norms = sum(p.numel() for m in norms for p in m.parameters())
    assert sum(p.numel() for p in model.parameters()) - of_norms == 8_901_818
    assert of_norms == 4_896
    assert [type(m) for m in model.blocks] == [HighwayBlock] * 18
    assert [m.h.stride[0] for m in model.blocks] == [2, 1, 1, 1, 1, 1] * 3


def test_a_plain_file_of_the_full_network_has_the_size_of_the_document(tmp_path):
    """33.995 MiB of weights, biases and normalisation; positions, counters and names are more."""
    save(thrifty.resolve("highway"), tmp_path / "m.safetensors")
    assert floats(tmp_path / "m.safetensors") == 4 * (8_901_818 + 2 * 4_896)
    assert round(floats(tmp_path / "m.safetensors") / MIB, 3) == 33.995
    more = (tmp_path / "m.safetensors").stat().st_size - floats(tmp_path / "m.safetensors")
    assert more - 18 * 8 - 6 * (64 + 128 + 256) * 8 < 20_000  # the header


def test_a_plain_file_of_a_quarter_of_the_channels_has_the_size_of_the_document(tmp_path):
    """5.17 MiB of weights; biases, normalisation, positions and names are 0.06 MiB more."""
    save(narrowed(thrifty.resolve("highway"), quarter), tmp_path / "m.safetensors")
    tensors = safetensors.torch.load_file(tmp_path / "m.safetensors")
    weights = sum(4 * x.numel() for x in tensors.values() if x.dim() > 1)
    assert round(weights / MIB, 2) == 5.17
    assert round((tmp_path / "m.safetensors").stat().st_size / MIB, 2) == 5.23


def test_a_shut_gate_carries_and_an_open_one_transforms():
    one, x = block(), torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        one.t.weight.zero_()
        one.t.bias.fill_(-200)
        assert torch.equal(one(x), x)
        one.t.bias.fill_(200)
        torch.testing.assert_close(one(x), torch.relu(one.h(one.bn(x))))


def test_the_carry_path_averages_and_adds_channels_of_zeros():
    x = torch.randn(2, 3, 4, 6)
    s = block(3, 5, 2).carried(x)
    torch.testing.assert_close(s[:, :3], x.view(2, 3, 2, 2, 3, 2).mean((3, 5)))
    assert s.shape == (2, 5, 2, 3) and not s[:, 3:].any()


def test_an_image_of_odd_sides_keeps_its_last_row():
    x = torch.randn(2, 3, 5, 7)
    one = block(3, 5, 2)
    assert one(x).shape == (2, 5, 3, 4)
    torch.testing.assert_close(one.carried(x)[:, :3, 2, 3], x[:, :, 4, 6])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 32, 32), (2, 5, 4)])
def test_it_takes_images_of_many_sizes_and_halves_them_three_times(shape):
    model = thrifty.resolve(SMALL, shape=shape, classes=7).eval()
    seen = []
    model.blocks.register_forward_hook(lambda m, i, o: seen.append(tuple(o.shape[2:])))
    assert model(torch.randn(2, *shape)).shape == (2, 7)
    assert seen == [tuple(-(-side // 8) for side in shape[1:])]


def test_gates_begin_where_they_are_told_to():
    model = thrifty.resolve(SMALL + "&bias=-3")
    assert all(bool((m.t.bias == -3).all()) for m in model.blocks)
    assert all(bool((m.t.bias == -1).all()) for m in thrifty.resolve(SMALL).blocks)


@pytest.mark.parametrize(
    "options", ["blocks=0", "blocks=2.5", "blocks=true", "bias=none", "bias=1e9", "width=0"]
)
def test_an_option_that_makes_no_network_is_refused(options):
    with pytest.raises(UserError, match=options.split("=")[0]):
        thrifty.resolve(f"highway?{options}")


def test_a_narrowed_block_writes_its_channels_and_carries_the_others():
    whole = block(6, 6)
    small = narrowed(copy.deepcopy(whole), lambda n: torch.tensor([1, 4]))
    x = torch.randn(3, 6, 5, 5)
    given = x.clone()
    with torch.no_grad():
        y = small(x)
        h = torch.relu(whole.h(whole.bn(x)))[:, [1, 4]]
        t = torch.sigmoid(small.t(h))
    assert torch.equal(x, given)
    torch.testing.assert_close(y[:, [1, 4]], t * h + (1 - t) * x[:, [1, 4]])
    assert torch.equal(y[:, [0, 2, 3, 5]], x[:, [0, 2, 3, 5]])


def test_a_block_that_lost_all_is_its_carry_path():
    small = narrowed(block(3, 5, 2), lambda n: torch.arange(0))
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(small(x), small.carried(x))


def test_a_narrowed_network_is_trained_like_any_other():
    model = narrowed(thrifty.resolve(SMALL, shape=(1, 8, 8)), quarter).train()
    model(torch.randn(16, 1, 8, 8)).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and bool(p.grad.isfinite().all()), name


def test_narrowed_computes_in_sixteen_bits_under_autocast():
    model = narrowed(thrifty.resolve(SMALL, shape=(1, 8, 8)), quarter)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(torch.randn(4, 1, 8, 8))
    out.float().sum().backward()
    assert bool(out.isfinite().all())


SOME = {
    "a quarter": quarter,
    "all of some": lambda n: torch.arange(0 if n == 32 else n),
    "none": lambda n: torch.arange(0),
}


@pytest.mark.parametrize("some", SOME)
@pytest.mark.parametrize("suffix", [".safetensors", ".safetensors.zst", ".thrifty"])
def test_a_file_gives_a_narrowed_network_back_bit_for_bit(some, suffix, tmp_path):
    model = narrowed(thrifty.resolve(SMALL), SOME[some]).eval()
    x = torch.randn(2, 3, 32, 32)
    path = tmp_path / f"m{suffix}"
    save(model, path)
    named = thrifty.resolve(SMALL, weights=path)
    given = thrifty.resolve(SMALL)
    load_weights(given, path, resize=True)
    for again in (load(path), thrifty.resolve(path), named, given):
        assert torch.equal(again.eval()(x), model(x))
        assert count_macs(again, (3, 32, 32)) == count_macs(model, (3, 32, 32))


def changed(path, change):
    """Rewrite a plain file with its tensors changed."""
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(path)
    change(tensors, metadata)
    safetensors.torch.save_file(tensors, path, metadata)


def put(name, values):
    def change(tensors, metadata):
        tensors[name] = torch.tensor(values, dtype=tensors[name].dtype)

    return change


LIES = {
    "below": ("blocks.1.kept", [-1, 4, 8, 12], "outside of 0..15"),
    "above": ("blocks.1.kept", [0, 4, 8, 16], "outside of 0..15"),
    "far above": ("blocks.1.kept", [0, 4, 8, 2**62], "outside of 0..15"),
    "twice": ("blocks.1.kept", [0, 4, 4, 12], "twice"),
    "unsorted": ("blocks.1.kept", [4, 0, 8, 12], "twice"),
    "too few": ("blocks.1.kept", [0, 4, 8], "h makes 4 channels"),
    "two dimensions": ("blocks.1.kept", [[0, 4, 8, 12]], "kept"),
    "none": ("blocks.1.kept", [], "h makes 4 channels"),
    "too few biases": ("blocks.1.t.bias", [0.0, 0.0], "bias"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_about_channels_is_refused(lie, tmp_path):
    name, values, match = LIES[lie]
    path = tmp_path / "m.safetensors"
    save(narrowed(thrifty.resolve(SMALL), quarter), path)
    changed(path, put(name, values))
    untouched = thrifty.resolve(SMALL)
    before = {n: x.clone() for n, x in untouched.state_dict().items()}
    for read in (
        lambda: load(path),
        lambda: thrifty.resolve(SMALL, weights=path),
        lambda: load_weights(untouched, path, resize=True),
    ):
        with pytest.raises(UserError, match=match):
            read()
    assert all(torch.equal(x, before[n]) for n, x in untouched.state_dict().items())


@pytest.mark.parametrize("values", [[0] * 16, list(range(15, -1, -1)), list(range(1, 17))])
def test_a_whole_network_with_wrong_positions_is_refused(values, tmp_path):
    path = tmp_path / "m.safetensors"
    save(thrifty.resolve(SMALL), path)
    changed(path, put("blocks.0.kept", values))
    with pytest.raises(UserError, match=r"blocks\.0: kept"):
        load(path)
    with pytest.raises(UserError, match=r"blocks\.0: kept"):
        thrifty.resolve(SMALL, weights=path)


def test_layers_that_do_not_go_together_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    save(narrowed(thrifty.resolve(SMALL), quarter), path)

    def change(tensors, metadata):
        tensors["blocks.1.t.weight"] = tensors["blocks.1.t.weight"][:, :2].contiguous()

    changed(path, change)
    with pytest.raises(UserError, match="do not go together"):
        load(path)


def test_other_networks_may_not_lose_all_channels_of_a_layer(tmp_path):
    path = tmp_path / "m.safetensors"
    model = thrifty.resolve("lenet_300_100", shape=(4,))
    remember_shrunk(model, Shrunk())
    save(model, path)

    def change(tensors, metadata):
        tensors["fc1.weight"], tensors["fc1.bias"] = torch.empty(0, 4), torch.empty(0)
        tensors["fc2.weight"] = torch.empty(100, 0)

    changed(path, change)
    assert json.loads(safetensors.safe_open(path, "pt").metadata()["thrifty"])["format"] == 2
    with pytest.raises(UserError, match="of another shape"):
        load(path)


@pytest.mark.parametrize("some", SOME)
def test_a_packed_file_gives_a_narrowed_network_back_and_runs(some, tmp_path):
    model = narrowed(thrifty.resolve(SMALL), SOME[some]).eval()
    x = torch.randn(3, 3, 32, 32)
    pack(model, tmp_path / "m.thrifty")
    assert torch.equal(load(tmp_path / "m.thrifty").eval()(x), model(x))
    engine = thrifty.compile(tmp_path / "m.thrifty")
    torch.testing.assert_close(torch.as_tensor(engine(x)), model(x), rtol=1e-4, atol=1e-5)


def test_what_is_dense_is_counted_without_the_constants_of_the_program(tmp_path):
    model = narrowed(thrifty.resolve(SMALL), quarter)
    done = pack(model, tmp_path / "m.thrifty")
    numbers = sum(x.numel() for x in model.state_dict().values())
    assert any(size.name.startswith("program:") for size in done.tensors)
    assert done.total("elements") == numbers
    assert done.total("packed") + done.header == (tmp_path / "m.thrifty").stat().st_size


@pytest.mark.parametrize("some", SOME)
def test_the_engine_runs_a_narrowed_network_without_torch(some):
    model = narrowed(thrifty.resolve(SMALL, shape=(1, 8, 8)), SOME[some]).eval()
    x = torch.randn(5, 1, 8, 8)
    engine = thrifty.compile(model, x)
    torch.testing.assert_close(torch.as_tensor(engine(x)), model(x), rtol=1e-4, atol=1e-5)
    assert not [op for op in engine.program.ops if op.kind == "fallback"]


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs onnxruntime")
@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="needs onnxscript")
def test_a_narrowed_network_is_written_as_onnx_for_any_batch(tmp_path):
    model = narrowed(thrifty.resolve(SMALL), SOME["all of some"]).eval()
    done = export(model, tmp_path / "m.onnx", "onnx")
    assert done.facts["batch"] == "any" and done.facts["difference"] < 1e-4

"""Networks that use one convolution many times: all modes run natively, weights are kept once."""

import pytest
import torch

import thrifty
from thrifty.compiling import compile as compiled
from thrifty.container import Reader
from thrifty.native import targets
from thrifty.nets.budget import MODES
from thrifty.pack import load
from thrifty.pack.packing import pack

pytestmark = pytest.mark.skipif(targets.target() == "numpy", reason="the engine was not compiled")

SMALL = "thriftynet?filters=8&iterations=6&history=3&shape=3x16x16"


def network(spec):
    torch.manual_seed(0)
    model = thrifty.resolve(spec)
    with torch.no_grad():
        model.alpha.copy_(torch.randn_like(model.alpha))
        model.train()(torch.randn(8, *thrifty.nets.architecture_of(model).shape))
    return model.eval()


def pictures(count=3):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def close(ours, theirs):
    torch.testing.assert_close(torch.as_tensor(ours), theirs, rtol=1e-3, atol=1e-3)


EACH = [(mode, "tanh") for mode in MODES]
EACH += [("mb1", act) for act in ("relu", "hardtanh", "gelu", "silu", "leaky_relu")]


@pytest.mark.parametrize(("mode", "act"), EACH)
def test_every_operation_is_one_of_the_compiled_engine(mode, act):
    model = network(f"{SMALL}&mode={mode}&act={act}")
    engine = compiled(model)
    assert not [s.reason for s in engine._segments if s.reason]
    with torch.no_grad():
        close(engine(pictures()), model(pictures()))


def test_links_that_are_gone_cost_the_engine_nothing():
    model = network(SMALL)
    before = len(compiled(model).program.ops)
    model.links[2, 0] = False
    model.links[:, 3] = False
    engine = compiled(model)
    assert len(engine.program.ops) < before
    with torch.no_grad():
        close(engine(pictures()), model(pictures()))


@pytest.mark.parametrize("mode", ["classic", "mb1"])
@pytest.mark.parametrize("share", [0.0, 0.9])
def test_the_weights_of_all_uses_take_the_memory_of_one(mode, share):
    def taken(iterations):
        spec = f"thriftynet?filters=128&iterations={iterations}&history=1&pool_every=0&mode={mode}"
        model = network(f"{spec}&shape=3x16x16")
        torch.manual_seed(0)
        with torch.no_grad():
            for p in model.conv.parameters():
                p.copy_(torch.randn_like(p) * (torch.rand_like(p) >= share))
        numbers = sum(int(p.count_nonzero()) for p in model.conv.parameters())
        return compiled(model)._segments[0].net.taken(), numbers

    (few, numbers), (many, _) = taken(4), taken(12)
    # Apart they took 8 bytes a weight, or 14 with places; an operation has small tables of its own.
    assert (many - few) / 8 < 6 * numbers


def test_a_file_holds_the_convolution_once_and_gives_the_network_back(tmp_path):
    model = network(SMALL)
    pack(model, tmp_path / "net.thrifty")
    with Reader(tmp_path / "net.thrifty") as reader:
        assert [n for n in reader.tensors if n.startswith("conv.")] == [
            "conv.0.weight",
            "conv.1.weight",
        ]
    again = load(tmp_path / "net.thrifty").eval()
    with torch.no_grad():
        assert torch.equal(again(pictures()), model(pictures()))
        engine = thrifty.compile(tmp_path / "net.thrifty")
        close(engine(pictures()), model(pictures()))

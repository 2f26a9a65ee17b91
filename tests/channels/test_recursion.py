"""Channels of a network that uses one convolution again and again: one unit over all iterations."""

import importlib.util

import pytest
import torch
from torch import nn
from torch.nn import functional

import thrifty
from thrifty.channels.costs import Costs
from thrifty.channels.finding import groups as find_groups
from thrifty.channels.removal import CUT, silenced
from thrifty.channels.shrinking import shrink, surgery
from thrifty.errors import UserError
from thrifty.nets import count_macs, resolve
from thrifty.nets.resizing import Narrowable
from thrifty.pack.exporting import export
from thrifty.pack.packing import pack
from thrifty.pruning import Budget, prunable
from thrifty.pruning.gates import gate
from thrifty.pruning.masks import Masks
from thrifty.pruning.structured import prune_channels

SHAPE, MODES = (3, 8, 8), ("classic", "mb1", "mb2", "mb4")
INPUTS = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(3))


def network(mode: str = "mb1") -> nn.Module:
    """With norms that are not as new, so that channels without filters send something."""
    torch.manual_seed(0)
    spec = f"thriftynet?filters=24&iterations=4&history=3&pool_every=2&mode={mode}"
    model = resolve(spec, classes=5, shape=SHAPE)
    for norm in model.norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
    nn.init.uniform_(model.alpha, -1, 1)
    return model.eval()


def stream(found):
    """The group of the stream that may lose channels."""
    (group,) = (g for g in found.free if any(m.tensor == "kept" for m in g.members))
    return group


def half(group) -> dict[str, torch.Tensor]:
    keep = torch.rand(group.units, generator=torch.Generator().manual_seed(1)) > 0.5
    keep[0], keep[-1] = True, False
    return {group.name: keep}


@pytest.mark.parametrize("mode", MODES)
def test_a_channel_is_one_unit_with_every_tensor_of_every_iteration(mode):
    model = network(mode)
    group = stream(find_groups(model, INPUTS))
    touched = {m.tensor for m in group.members}
    norms = {f"norms.{t}.{leaf}" for t in range(4) for leaf in model.norms[0].state_dict()}
    convolutions = {name for name in prunable(model) if name.startswith("conv")}
    assert touched == (norms | convolutions | {"kept", "linear.weight"}) - {
        f"norms.{t}.num_batches_tracked" for t in range(4)
    }


@pytest.mark.parametrize("mode", MODES)
def test_without_channels_it_computes_what_it_does_with_them_cut_off(mode):
    model = network(mode)
    found = find_groups(model, INPUTS)
    kept = half(stream(found))
    done = surgery(model, example=INPUTS, kept=kept, groups=found)
    assert done.difference < 1e-5
    assert len(done.model.kept) == len(done.model.norms[3].weight) < 24
    assert set(dict(done.model.named_parameters())) == set(dict(model.named_parameters()))


@pytest.mark.parametrize("mode", MODES)
def test_what_is_zero_over_all_iterations_is_gone_and_nothing_changes(mode):
    model = network(mode)
    found = find_groups(model, INPUTS)
    masked = silenced(model, found, half(stream(found)), CUT)
    small = shrink(masked, example=INPUTS)
    assert len(small.kept) < 24
    torch.testing.assert_close(small(INPUTS), masked(INPUTS), rtol=1e-5, atol=1e-5)


def test_a_channel_that_still_sends_another_constant_in_each_iteration_stays():
    model = network("classic")
    with torch.no_grad():
        model.conv.weight[10:] = 0.0
    assert len(shrink(model, example=INPUTS).kept) == 24
    with torch.no_grad():
        model.conv.weight[:, 10:] = 0.0
        model.linear.weight[:, 10:] = 0.0
    small = shrink(model, example=INPUTS)
    assert small.kept.tolist() == list(range(10))
    torch.testing.assert_close(small(INPUTS), model(INPUTS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("mode", "whole"), [("classic", 3), ("mb1", 3), ("mb2", 4), ("mb4", 4)])
def test_channels_that_carry_the_input_stay_and_say_so(mode, whole):
    found = find_groups(network(mode), INPUTS)
    group = stream(found)
    assert sum(g.whole == "they carry the input of the network" for g in found) == 1
    free = next(m.unit for m in group.members if m.tensor == "linear.weight")
    assert (free < 0).nonzero()[:, 0].tolist() == list(range(whole))


def test_a_network_as_wide_as_its_input_keeps_all_of_it():
    torch.manual_seed(0)
    model = resolve("thriftynet?filters=4&iterations=2&history=1&mode=classic", shape=(4, 4, 4))
    found = find_groups(model, torch.randn(2, 4, 4, 4))
    assert {g.whole for g in found if g.name == "conv"} == {"they carry the input of the network"}


def test_behind_a_stem_every_channel_of_the_stream_may_go_and_the_stem_keeps_its_own():
    torch.manual_seed(0)
    inputs = torch.randn(2, 3, 32, 32)
    spec = "thriftynet?filters=200&width=0.1&iterations=3&history=2&pool_every=0&stem=resnet"
    model = resolve(spec, classes=5, shape=(3, 32, 32))
    found = find_groups(model, inputs)
    group = stream(found)
    assert group.units == len(model.kept)
    keep = torch.ones(group.units, dtype=torch.bool)
    keep[[0, 5, 15]] = False
    done = surgery(model, example=inputs, kept={group.name: keep}, groups=found)
    assert done.difference < 1e-5
    assert "an index" in str(found["stem.5.conv2"].whole)


def test_a_network_that_lost_channels_loses_more_and_remembers_which(tmp_path):
    first = prune_channels(network(), "l1_filter", Budget(0.3), INPUTS, round=1)
    second = prune_channels(first, "l1_filter", Budget(0.3), INPUTS, round=1)
    assert set(second.kept.tolist()) < set(first.kept.tolist())
    thrifty.save(second, tmp_path / "small.safetensors")
    again = thrifty.load(tmp_path / "small.safetensors").eval()
    assert torch.equal(again.kept, second.kept)
    assert torch.equal(again(INPUTS), second.eval()(INPUTS))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["l1_filter", "group_norm", "fpgm", "random_filter"])
def test_methods_meet_their_budgets_on_it(name, mode):
    model = network(mode)
    small = prune_channels(model, name, Budget(0.6, of="params"), INPUTS, round=1)
    params = [sum(p.numel() for p in m.parameters()) for m in (model, small)]
    assert 0.4 * params[0] < params[1] <= 0.6 * params[0]
    assert small.kept[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize("mode", MODES)
def test_costs_are_those_of_the_smaller_network(mode):
    model = network(mode)
    found = find_groups(model, INPUTS)
    kept = half(stream(found))
    small = surgery(model, example=INPUTS, kept=kept, groups=found).model
    cost = Costs(model, found, SHAPE).of(kept)
    assert cost.params == sum(p.numel() for p in small.parameters())
    assert cost.macs == count_macs(small, SHAPE)


def test_a_channel_is_dead_to_slimming_only_if_its_scales_of_all_iterations_are():
    model = network()
    found = find_groups(model, INPUTS)
    slim = gate("bn_scale?init=none", groups=found)
    with torch.no_grad():
        for t, norm in enumerate(model.norms):
            norm.weight.fill_(1.0)
            norm.weight[5] = 0.0
            norm.weight[6] = -0.5 if t == 3 else 0.0
    scores = slim.scores(model)["conv.1.weight"]
    assert scores[5] == 0
    assert scores[6] == 0.125
    assert scores[:3].isinf().all()
    assert set(scores[7:].tolist()) == {1.0}


def test_groups_of_the_convolution_go_whole():
    model = network("mb4")
    small = prune_channels(model, "l1_filter", Budget(0.5), INPUTS, round=1)
    left = small.kept.view(-1, 4)
    assert torch.equal(left % 4, torch.arange(4).expand_as(left))
    assert small.conv[0].groups == len(left) == small.conv[1].in_channels


def test_asked_for_more_than_may_go_it_says_how_much_may():
    with pytest.raises(UserError, match="cannot be met: .* stay whole"):
        prune_channels(network("mb4"), "l1_filter", Budget(0.99), INPUTS, round=1)


def test_zeros_of_the_shared_convolution_hold_in_every_iteration():
    model = network("classic")
    masks = thrifty.prune(model, "magnitude", 0.8)
    assert isinstance(masks, Masks)
    assert "conv.weight" in masks
    uses = []
    handle = model.conv.register_forward_hook(lambda m, _, __: uses.append((m.weight == 0).sum()))
    model(INPUTS)
    handle.remove()
    gone = int((~masks["conv.weight"]).sum())
    assert [int(n) for n in uses] == [gone] * 4


@pytest.mark.parametrize("mode", MODES)
def test_packed_and_compiled_it_gives_its_outputs_sparse_or_smaller(mode, tmp_path):
    for step in ("sparse", "smaller"):
        model = network(mode)
        if step == "sparse":
            thrifty.prune(model, "magnitude", 0.7)
        else:
            model = prune_channels(model, "l1_filter", Budget(0.4), INPUTS, round=1).eval()
        pack(model, tmp_path / f"{step}.thrifty", example=INPUTS[:1])
        again = thrifty.load(tmp_path / f"{step}.thrifty").eval()
        assert torch.equal(again(INPUTS), model(INPUTS))
        engine = thrifty.compile(tmp_path / f"{step}.thrifty")
        torch.testing.assert_close(engine(INPUTS), model(INPUTS), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="needs onnx and onnxruntime"
)
def test_without_channels_it_is_exported_to_onnx(tmp_path):
    import onnxruntime

    small = prune_channels(network(), "l1_filter", Budget(0.4), INPUTS, round=1).eval()
    export(small, tmp_path / "small.onnx", "onnx", example=INPUTS[:1])
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    (given,) = session.run(None, {session.get_inputs()[0].name: INPUTS.numpy()})
    torch.testing.assert_close(torch.from_numpy(given), small(INPUTS), rtol=1e-4, atol=1e-4)


# What a buffer picks, in any network


class Picks(Narrowable):
    """A layer whose channels a buffer picks out of a padded input, or out of a layer's."""

    def __init__(self, made: bool, pad: tuple[int, int] = (0, 4), value: float = 0.0):
        super().__init__()
        torch.manual_seed(0)
        self.made = nn.Conv2d(3, 3, 1) if made else nn.Identity()
        self.pad, self.value = pad, value
        self.conv, self.out = nn.Conv2d(7, 7, 1), nn.Linear(7, 2)
        self.register_buffer("kept", torch.arange(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.pad(self.made(x), (0, 0, 0, 0, *self.pad), value=self.value)
        x = x.index_select(1, self.kept)
        return self.out((x + self.conv(x)).mean((2, 3)))


def fixed(model: nn.Module) -> list[int]:
    """The channels of ``conv`` that stay."""
    units = [
        m.unit >= 0
        for g in find_groups(model, torch.randn(2, 3, 4, 4), check=False).free
        for m in g.members
        if m.tensor == "conv.weight" and m.dim == 0
    ]
    return (~torch.stack(units).any(0)).nonzero()[:, 0].tolist() if units else list(range(7))


def test_what_is_picked_of_the_input_stays_wherever_zeros_are():
    assert fixed(Picks(False)) == [0, 1, 2]
    assert fixed(Picks(False, (4, 0))) == [4, 5, 6]
    assert fixed(Picks(False, (1, 3))) == [1, 2, 3]
    assert fixed(Picks(True)) == []


def test_what_is_filled_up_with_another_number_is_no_channel_of_zeros():
    assert fixed(Picks(False, value=1.0)) == list(range(7))


def test_only_while_they_are_followed_do_modules_show_what_they_pick():
    model = network()
    find_groups(model, INPUTS)
    assert not any("followed" in vars(m) for m in model.modules())
    assert not model.followed

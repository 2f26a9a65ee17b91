"""What the gate of highway networks removes: exactly what a shut gate is, and no more."""

import copy

import pytest
import torch
from torch import nn

import thrifty
from thrifty.channels.costs import Cost, Costs
from thrifty.errors import UserError
from thrifty.nets import architecture_of, count_macs
from thrifty.nets.highway import HighwayBlock
from thrifty.pack import load, save
from thrifty.pruning.evidence import Batch
from thrifty.pruning.gates.highway import HighwayGate

NET, SHAPE = "highway?width=1&blocks=2", (1, 8, 8)


def network(seed=0):
    """With norms and biases that are not as new, so that constants are sent."""
    torch.manual_seed(seed)
    model = thrifty.resolve(NET, shape=SHAPE)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
        if isinstance(module, HighwayBlock):
            nn.init.uniform_(module.h.bias, -0.5, 0.5)
    return model.eval()


def batches(count=3, size=5) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, *SHAPE, generator=generator), torch.zeros(size)) for _ in "x" * count
    ]


def attached(**options):
    model, found = network(), HighwayGate(**options)
    found.attach(model)
    found.measure(model, batches())
    return found, model


def some(groups, share=0.4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {g.name: torch.rand(g.units, generator=generator) < share for g in groups}


def seen(model, run):
    """T of every block in one pass after the other, (channels, everything), by block."""
    found: dict[str, list[torch.Tensor]] = {}
    hooks = [
        m.gate.register_forward_hook(
            lambda _, __, out, name=n: found.setdefault(name, []).append(
                out.movedim(1, 0).flatten(1)
            )
        )
        for n, m in model.named_modules()
        if isinstance(m, HighwayBlock)
    ]
    with torch.no_grad():
        for x in run:
            model(x)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts, 1) for name, parts in found.items()}


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_removed_channels_are_those_whose_gate_is_shut(fold, seed):
    found, model = attached(fold=fold)
    groups = found.own_units(model)
    kept = some(groups, seed=seed)
    kept["blocks.3.h"] = torch.zeros(32, dtype=torch.bool)
    small, whole = found.removed(model, groups, kept), found.closed(model, groups, kept)
    x = torch.randn(4, *SHAPE)
    torch.testing.assert_close(small(x), whole(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(small(x), model(x), atol=1e-3)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    for twin in (small, whole):
        assert not any("highway" in name for name in twin.state_dict())


def test_without_means_the_closed_network_has_gates_at_exactly_zero():
    found, model = attached(fold=False)
    groups = found.own_units(model)
    kept = {"blocks.1.h": torch.arange(16) % 2 == 0}
    values = seen(found.closed(model, groups, kept), [torch.randn(4, *SHAPE)])["blocks.1"]
    assert not values[1::2].any() and bool((values[::2] > 0).all())


def test_means_bring_the_gates_nearer_to_what_they_were():
    gaps = []
    for fold in (True, False):
        found, model = attached(fold=fold)
        groups = found.own_units(model)
        kept = {"blocks.0.h": torch.arange(16) % 2 == 0}
        x = [x for x, _ in batches()]
        before = seen(model, x)["blocks.0"][kept["blocks.0.h"]].mean(1)
        after = seen(found.removed(model, groups, kept), x)["blocks.0"].mean(1)
        gaps.append(float((after - before).norm()))
    assert gaps[0] < 0.8 * gaps[1]


def test_what_is_kept_whole_is_the_network_itself():
    found, model = attached()
    groups = found.own_units(model)
    same = found.removed(model, groups, {g.name: torch.ones(g.units).bool() for g in groups})
    x = torch.randn(4, *SHAPE)
    assert torch.equal(same(x), model(x))
    assert [g.units for g in groups] == [16, 16, 32, 32, 64, 64]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_costs_are_those_of_the_network_that_is_left(share):
    found, model = attached()
    groups = found.own_units(model)
    kept = some(groups, share)
    small = found.removed(model, groups, kept)
    expected = Cost(
        sum(p.numel() for p in small.parameters()),
        count_macs(small, SHAPE),
        sum(x.numel() * x.element_size() for x in small.state_dict().values()),
    )
    assert Costs(model, groups, SHAPE).of(kept) == expected


def test_a_narrowed_network_is_narrowed_again():
    found, model = attached(fold=False)
    groups = found.own_units(model)
    first = {g.name: torch.arange(g.units) % 2 == 0 for g in groups}
    once = found.removed(model, groups, first)
    found.attach(once)
    found.measure(once, batches())
    again = found.own_units(once)
    second = {g.name: torch.arange(g.units) % 3 != 0 for g in again}
    twice = found.removed(once, again, second)
    both = {name: keep.clone() for name, keep in first.items()}
    for name, keep in both.items():
        keep[keep.nonzero()[:, 0][~second[name]]] = False
    x = torch.randn(4, *SHAPE)
    torch.testing.assert_close(twice(x), found.removed(model, groups, both)(x))


def test_a_block_that_lost_all_is_measured_and_has_no_units():
    found, model = attached()
    groups = found.own_units(model)
    small = found.removed(model, groups, {"blocks.2.h": torch.zeros(32).bool()})
    found.attach(small)
    found.measure(small, batches())
    assert len(found.scores(small)["blocks.2.h.weight"]) == 0
    assert [g.name for g in found.own_units(small)] == [f"blocks.{i}.h" for i in (0, 1, 3, 4, 5)]
    small.train()(torch.randn(4, *SHAPE))
    assert found.penalty(small, 0.5) is not None


class Own(nn.Module):
    """A block of a user's own: signals, no norm, no rectifier after the sum."""

    def __init__(self, channels):
        super().__init__()
        self.h, self.t = (
            nn.Conv1d(channels, channels, 3, padding=1),
            nn.Conv1d(channels, channels, 1),
        )
        self.gate = nn.Hardsigmoid()
        self.register_buffer("kept", torch.arange(channels))

    def forward(self, x):
        if not len(self.kept):
            return x
        h = torch.tanh(self.h(x))
        t = self.gate(self.t(h))
        return x.index_copy(1, self.kept, t * h + (1 - t) * x.index_select(1, self.kept))


def test_blocks_of_ones_own_are_gated_and_narrowed():
    model = nn.Sequential(nn.Conv1d(2, 6, 1), Own(6), Own(6), nn.Flatten(), nn.Linear(48, 3)).eval()
    found = HighwayGate(strength=1.0, cost="macs")
    found.attach(model)
    x = torch.randn(5, 2, 8)
    found.measure(model, [(x, torch.zeros(5))])
    groups = found.own_units(model)
    kept = {"1.h": torch.zeros(6).bool(), "2.h": torch.arange(6) > 3}
    small = found.removed(model, groups, kept)
    torch.testing.assert_close(small(x), found.closed(model, groups, kept)(x))
    assert small[2].kept.tolist() == [4, 5]
    assert Costs(model, groups, (2, 8)).of(kept).macs == count_macs(small, (2, 8))
    model.train()(x)
    assert found.penalty(model, 1.0) is not None


@pytest.mark.parametrize(
    "kept",
    [
        {"blocks.9.h": torch.ones(16).bool()},
        {"blocks.0.h": torch.ones(15).bool()},
        {"blocks.0.h": torch.ones(16)},
        {"blocks.0.h": [True] * 16},
    ],
)
def test_what_fits_no_group_is_refused(kept):
    found, model = attached()
    for use in (found.removed, found.closed):
        with pytest.raises(UserError, match=r"blocks\.[09]\.h"):
            use(model, found.own_units(model), kept)


def test_a_network_that_lost_all_channels_of_a_block_is_pruned_further():
    found, model = attached()
    groups = found.own_units(model)
    small = found.removed(model, groups, {"blocks.2.h": torch.zeros(32).bool()})
    for method in ("magnitude", "random", "one_shot"):
        masks = thrifty.prune(copy.deepcopy(small), method, 0.5)
        assert masks.sparsity == pytest.approx(0.5, abs=1e-3)
        assert not any("blocks.2" in name for name in masks)


def test_a_network_whose_stream_lost_channels_is_narrowed_and_comes_back_from_a_file(tmp_path):
    model, x = network(), torch.randn(4, *SHAPE)
    less = thrifty.shrink(model, example=x, kept={"stem": torch.arange(16) % 3 != 0}).eval()
    assert architecture_of(less) == architecture_of(model)
    assert [len(block.kept) for block in less.blocks] == [10, 10, 26, 26, 58, 58]
    found = HighwayGate()
    found.attach(less)
    found.measure(less, batches())
    groups = found.own_units(less)
    kept = some(groups)
    small = found.removed(less, groups, kept)
    torch.testing.assert_close(small(x), found.closed(less, groups, kept)(x), atol=1e-5, rtol=1e-5)
    save(small, tmp_path / "m.safetensors")
    assert torch.equal(load(tmp_path / "m.safetensors").eval()(x), small(x))


def test_a_narrowed_network_is_followed_and_stays_whole_where_it_must():
    found, model = attached()
    groups = found.own_units(model)
    small = found.removed(model, groups, some(groups))
    followed = thrifty.groups(small, torch.randn(2, *SHAPE))
    assert not followed.free
    assert "picks them by number" in followed["stem"].whole

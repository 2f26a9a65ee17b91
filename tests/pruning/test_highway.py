"""The gate of highway networks: what it measures, what it pulls, what it removes."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import thrifty
from thrifty.channels.costs import Costs
from thrifty.data import load_data
from thrifty.errors import UserError
from thrifty.nets.highway import HighwayBlock
from thrifty.pruning.evidence import Batch
from thrifty.pruning.gates import gate
from thrifty.pruning.gates.highway import HighwayGate, collapsed
from thrifty.pruning.gates.highway_blocks import measured
from thrifty.pruning.gates.highway_change import priced, shares
from thrifty.training.loop import train
from thrifty.training.plan import Plan

NET, SHAPE = "highway?width=1&blocks=2", (1, 8, 8)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits?train=64&test=32")


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


def test_scores_are_the_means_of_the_gates_over_all_inputs():
    found, model = attached()
    values = seen(model, [x for x, _ in batches()])
    scores = found.scores(model)
    assert list(scores) == [f"blocks.{i}.h.weight" for i in range(6)]
    for i in range(6):
        torch.testing.assert_close(scores[f"blocks.{i}.h.weight"], values[f"blocks.{i}"].mean(1))


@pytest.mark.parametrize("score", ["q1", "q50", "q95", "q99.9", "q100"])
def test_a_quantile_is_within_a_hundredth_of_its_value(score):
    found, model = attached(score=score)
    values = seen(model, [x for x, _ in batches()])
    for i in range(6):
        at = torch.quantile(
            values[f"blocks.{i}"], float(score[1:]) / 100, 1, interpolation="higher"
        )
        below = torch.quantile(
            values[f"blocks.{i}"], float(score[1:]) / 100, 1, interpolation="lower"
        )
        scores = found.scores(model)[f"blocks.{i}.h.weight"]
        assert bool((scores <= at * 1.01).all()) and bool((scores >= below * 0.99).all())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40), st.floats(0.01, 1))
def test_quantiles_of_any_numbers_are_near_one_of_them(numbers, quantile):
    class Given(nn.Module):
        def forward(self, x):
            return x

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.h, self.t, self.gate = nn.Conv1d(1, 1, 1), nn.Conv1d(1, 1, 1), Given()

        def forward(self, x):
            self.t(x)
            return self.gate(x)

    model, values = Block(), torch.tensor(numbers)
    done = measured(model, {"": model}, [(values[None, None], torch.zeros(1))], quantile)[""]
    index = max(1, -(-len(numbers) * quantile // 1)) - 1
    exact = float(values.sort().values[min(int(index), len(numbers) - 1)])
    assert abs(float(done.quantile) - exact) <= 0.008 * exact + 1e-37
    torch.testing.assert_close(float(done.transform), float(values.double().mean()))


def test_measuring_leaves_the_network_as_it_was_but_for_the_readings():
    model, found = network().train(), HighwayGate()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found.attach(model)
    found.measure(model, batches())
    found.fold(model)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(before[k], after[k]) for k in before)
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_was_not_measured_is_not_read():
    model, found = network(), HighwayGate()
    with pytest.raises(UserError, match="not attached"):
        found.scores(model)
    found.attach(model)
    for ask in (found.scores, found.own_units):
        with pytest.raises(UserError, match="measure"):
            ask(model)
    with pytest.raises(UserError, match="there are none"):
        found.measure(model, [])


def test_a_gate_that_is_no_number_is_refused_by_name():
    model, found = network(), HighwayGate()
    found.attach(model)
    with torch.no_grad():
        model.blocks[3].t.bias[2] = torch.nan
    with pytest.raises(UserError, match=r"blocks\.3"):
        found.measure(model, batches())


def test_the_penalty_is_the_mean_gate_weighed_by_what_channels_cost():
    found, model = attached(strength=0.5, cost="plain", warmup=0.2)
    model.train()
    x = torch.randn(4, *SHAPE)
    values = seen(model, [x])  # in training mode, as the penalty sees it
    mean = torch.cat([v.mean(1) for v in values.values()]).mean()
    for progress, warm in ((0.0, 0.0), (0.1, 0.5), (0.2, 1.0), (0.9, 1.0)):
        model(x)
        torch.testing.assert_close(found.penalty(model, progress), 0.5 * warm * mean)


def test_costs_of_the_penalty_are_those_of_one_channel():
    for cost in ("params", "macs"):
        found, model = attached(strength=1.0, cost=cost, warmup=0)
        model.train()
        x = torch.randn(4, *SHAPE)
        values = seen(model, [x])
        each = Costs(model, found.own_units(model), SHAPE).each()
        weights = torch.cat(
            [
                torch.full(v.shape[:1], float(getattr(each[f"{n}.h"], cost)))
                for n, v in values.items()
            ]
        )
        means = torch.cat([v.mean(1) for v in values.values()])
        model(x)
        expected = (weights * means).sum() / weights.sum()
        torch.testing.assert_close(found.penalty(model, 1.0), expected)


def test_the_logarithm_pulls_harder_the_further_a_channel_is_shut():
    means = torch.tensor([0.0, 0.03, 0.5, 1.0], requires_grad=True)
    price = priced(means, "log")
    price.backward()
    assert bool((means.grad.diff() < 0).all())
    torch.testing.assert_close(means.grad[0] / means.grad[1], torch.tensor(2.0))
    for all_alike in (0.0, 1.0):
        shut = torch.full((3,), all_alike)
        torch.testing.assert_close(priced(shut, "log"), priced(shut, "mean"))


def test_the_penalty_is_of_the_shape_that_is_asked_for():
    found, model = attached(strength=0.5, cost="plain", warmup=0, shape="log")
    model.train()
    x = torch.randn(4, *SHAPE)
    values = seen(model, [x])
    means = torch.cat([v.mean(1) for v in values.values()])
    model(x)
    expected = 0.5 * (torch.log1p(means / 0.03) / math.log1p(1 / 0.03)).mean()
    torch.testing.assert_close(found.penalty(model, 1.0), expected)
    with pytest.raises(UserError, match="log"):
        HighwayGate(shape="lg")


def test_the_penalty_reaches_the_gates_and_needs_a_pass():
    found, model = attached(strength=1.0)
    model.train()
    with pytest.raises(UserError, match="training mode"):
        found.penalty(model, 1.0)
    model(torch.randn(4, *SHAPE))
    found.penalty(model, 1.0).backward()
    assert all(bool(b.t.bias.grad.any()) for b in model.blocks)
    assert bool(model.blocks[-1].t.bias.grad.gt(0).all())  # no gate after it is moved by it
    with pytest.raises(UserError, match="training mode"):
        found.penalty(model, 1.0)


def test_no_strength_only_measures():
    found, model = attached(strength=0.0)
    model.train()(torch.randn(4, *SHAPE))
    assert found.penalty(model, 1.0) is None
    assert not any(m._forward_hooks for m in model.modules())


def test_an_incentive_shuts_gates(digits):
    means = []
    for strength in (30.0, 0.0):
        model, found = network(), HighwayGate(strength=strength)
        found.attach(model)
        train(model, digits, Plan(epochs=6, batch=16), gate=found)
        found.measure(model, [(digits.prepare(digits.test.inputs), digits.test.labels)])
        means.append(torch.cat([*found.scores(model).values()]).mean())
    assert means[0] < 0.8 * means[1]


def test_a_copy_taken_between_pass_and_penalty_is_a_copy():
    found, model = attached(strength=1.0)
    model.train()(torch.randn(4, *SHAPE))
    twin = copy.deepcopy(model)
    again = pickle.loads(pickle.dumps(model))
    for each in (twin, again):
        assert torch.equal(
            found.scores(each)["blocks.4.h.weight"], found.scores(model)["blocks.4.h.weight"]
        )
        with pytest.raises(UserError, match="training mode"):
            found.penalty(each, 1.0)
        each(torch.randn(4, *SHAPE))
        assert found.penalty(each, 1.0) is not None
    assert found.penalty(model, 1.0) is not None


def test_readings_travel_in_a_state_dict():
    found, model = attached(score="q95")
    other = network(seed=1)
    found.attach(other)
    other.load_state_dict(model.state_dict())
    for name, values in found.scores(model).items():
        assert torch.equal(found.scores(other)[name], values)
    found.attach(fresh := network(seed=2))
    other.load_state_dict(fresh.state_dict())
    with pytest.raises(UserError, match="measure"):
        found.scores(other)


def test_networks_without_highway_blocks_are_told_what_would_do():
    with pytest.raises(UserError, match=r"no highway|has none; use the network highway.*slimming"):
        HighwayGate().attach(thrifty.resolve("resnet20"))


def test_two_gates_at_once_are_refused():
    found, model = attached()
    with pytest.raises(UserError, match="already"):
        found.attach(model)


def test_blocks_that_keep_names_are_left_alone():
    found, model = attached(keep="blocks.0.h,blocks.5.*")
    assert list(found.scores(model)) == [f"blocks.{i}.h.weight" for i in (1, 2, 3, 4)]
    assert [g.name for g in found.own_units(model, ["blocks.2.h"])] == [
        f"blocks.{i}.h" for i in (1, 3, 4)
    ]
    with pytest.raises(UserError, match="leaves no highway block"):
        HighwayGate(keep=["*"]).attach(network())
    with pytest.raises(UserError, match="matches no"):
        HighwayGate(keep=["conv1"]).attach(network())


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), float("inf"), "0.1", True, None])
def test_a_threshold_outside_of_zero_to_one_is_refused(threshold):
    with pytest.raises(UserError, match=r"0\.\.1"):
        HighwayGate().cutoff(threshold)


def test_a_threshold_is_a_mean_of_the_gate():
    assert [HighwayGate().cutoff(t) for t in (0, 0.05, 1)] == [0.0, 0.05, 1.0]


@pytest.mark.parametrize(
    "options",
    [
        "strength=-1", "strength=much", "cost=bytes", "warmup=2", "warmup=-1", "score=q0",
        "score=q101", "score=median", "score=95", "fold=2",
    ],
)  # fmt: skip
def test_an_option_that_says_nothing_is_refused(options):
    with pytest.raises(UserError, match=options.split("=")[0]):
        gate(f"highway?{options}")


def readings(*means, channels=4):
    return {f"blocks.{i}.h.weight": torch.full((channels,), m) for i, m in enumerate(means)}


def test_a_collapse_is_told_by_block():
    assert collapsed(readings(0.2, 0.1)) == []
    assert collapsed(readings(0.2, 1e-5)) == []  # one block of a stage
    assert collapsed(readings(1e-5, 1e-4)) == ["blocks.0", "blocks.1"]


def test_a_collapse_of_one_stage_is_told():
    two = {f"late.{k}": v for k, v in readings(1e-4, 1e-4, channels=8).items()}
    assert collapsed(readings(0.2, 0.1) | two) == ["late.blocks.0", "late.blocks.1"]


def changing(strength=0.0):
    found, model = HighwayGate(strength=strength, of="change", shape="log"), network()
    found.attach(model)
    return found, model


def test_no_scale_of_h_hides_a_change():
    block = HighwayBlock(6, 6, 1).eval()
    x = torch.randn(8, 6, 5, 5)
    with torch.no_grad():
        block.t.weight.zero_()
        block.t.bias.fill_(-2.0)
        block.h.weight.mul_(30)  # far larger than what is carried
        before = shares(block, x, block(x))
        # T about a tenth, H ten times: the change is what it was, and so is the share
        block.t.bias.copy_(torch.logit(torch.sigmoid(block.t.bias) / 10))
        block.h.weight.mul_(10)
        after = shares(block, x, block(x))
    assert bool((before > 0.2).all())
    assert bool((after > 0.8 * before).all())


def test_a_block_that_only_carries_changes_nothing():
    block = HighwayBlock(6, 6, 1).eval()
    x = torch.randn(8, 6, 5, 5)
    with torch.no_grad():
        block.t.bias.fill_(-1e4)
        assert float(shares(block, x, block(x)).max()) < 1e-3


def test_changes_are_measured_over_all_batches_as_over_one():
    found, model = changing()
    pieces = batches(count=4)
    found.measure(model, pieces)
    apart = found.scores(model)
    whole = torch.cat([x for x, _ in pieces])
    found.measure(model, [(whole, torch.zeros(len(whole)))])
    for name, values in found.scores(model).items():
        torch.testing.assert_close(apart[name], values)
    with torch.no_grad():
        x = model.stem(whole)
        for number, block in enumerate(model.blocks):
            out = block(x)
            expected = shares(block, x, out)
            torch.testing.assert_close(apart[f"blocks.{number}.h.weight"], expected)
            x = out


def test_the_penalty_of_changes_trains_shares_and_folds_away(digits):
    found, model = changing(strength=20.0)
    names = [name for name, _ in model.named_modules()]
    train(model, digits, Plan(epochs=6, batch=16), gate=found)
    scored = [(digits.prepare(digits.test.inputs), digits.test.labels)]
    found.measure(model, scored)
    shut = torch.cat([*found.scores(model).values()]).mean()
    found.fold(model)
    assert not any(m._forward_hooks for m in model.modules())
    assert [n for n, _ in model.named_modules()] == [n for n in names if "readings" not in n]
    other, plain = changing()
    train(plain, digits, Plan(epochs=6, batch=16), gate=other)
    other.measure(plain, scored)
    assert shut < 0.8 * torch.cat([*other.scores(plain).values()]).mean()


def test_a_narrowed_block_is_measured_at_the_channels_it_writes():
    found, model = changing()
    found.measure(model, batches())
    groups = found.own_units(model)
    kept = {g.name: torch.arange(g.units) % 2 == 0 for g in groups}
    small = found.removed(model, groups, kept)
    found.attach(small)
    found.measure(small, batches())
    for name, values in found.scores(small).items():
        assert len(values) == int(kept[name.removesuffix(".weight")].sum())
        assert bool(torch.isfinite(values).all())


def test_a_block_that_does_not_say_what_it_carries_is_refused():
    model = network()
    model.blocks[1].carried = None
    with pytest.raises(UserError, match=r"blocks\.1.*carried"):
        HighwayGate(of="change").attach(model)
    with pytest.raises(UserError, match="quantiles"):
        HighwayGate(of="change", score="q95")
    with pytest.raises(UserError, match="transform"):
        HighwayGate(of="transfrom")

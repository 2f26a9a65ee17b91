"""The gate of shortcuts: what it pulls, what it removes, and that it is really gone."""

import copy
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

import thrifty
from thrifty.data import load_data
from thrifty.errors import UserError
from thrifty.lab.recipe import make
from thrifty.lab.run import run
from thrifty.lab.store import Store
from thrifty.pruning import Budget
from thrifty.pruning.gates import gate
from thrifty.pruning.gates.shortcuts import (
    Shortcuts,
    is_recursion,
    possible,
    pulled,
    quartic,
    recursions_of,
)
from thrifty.pruning.structured import prune_channels
from thrifty.training.loop import train
from thrifty.training.plan import Plan

NET, SHAPE = "thriftynet?filters=6&iterations=4&history=3&pool_every=2", (1, 8, 8)
INPUTS = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1))
ALPHA = [
    [0.1, 0.9, 5.0, 5.0],  # one output before the first iteration, two before the second
    [0.1, 0.3, -0.4, 5.0],
    [0.2, 0.05, 0.19, 0.8],
    [-0.3, 0.0, 0.12, -0.14],
]


@pytest.fixture(scope="module")
def digits():
    return load_data("digits?train=64&test=32")


def network(alpha=ALPHA) -> nn.Module:
    torch.manual_seed(0)
    model = thrifty.resolve(NET, shape=SHAPE)
    with torch.no_grad():
        model.alpha.copy_(torch.tensor(alpha))
    return model.eval()


def above(threshold: float, model: nn.Module | None = None, **options) -> nn.Module:
    """Without the shortcuts that are not above a threshold."""
    model, found = model or network(), Shortcuts(**options)
    found.attach(model)
    groups = found.own_units(model)
    (group,) = groups
    scores = found.scores(model)["alpha"].flatten()
    unit = group.members[0].unit
    kept = torch.zeros(group.units, dtype=torch.bool)
    kept[unit[unit >= 0]] = scores[unit >= 0].double() > found.cutoff(threshold)
    return found.removed(model, groups, {group.name: kept})


class Own(nn.Module):
    """A recursion that is no ThriftyNet, in a part of a network."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(3, 3)
        self.alpha = nn.Parameter(torch.full((3, 3), 0.4))
        self.register_buffer("links", torch.ones(3, 3, dtype=torch.bool))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        past = [x]
        for row, links in zip(self.alpha, self.links.tolist(), strict=True):
            terms = [torch.tanh(self.step(past[0])), *past]
            new = [a * term for a, term, there in zip(row, terms, links, strict=False) if there]
            past = [torch.stack(new).sum(0), *past][:2]
        return past[0]


# What it pulls


@settings(deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=9), st.floats(1e-6, 1e-3))
def test_a_small_pull_is_a_step_down_the_gradient_of_the_penalty(values, by):
    alpha = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    quartic(alpha, by).backward()
    step = pulled(alpha.detach(), by) - alpha.detach()
    bound = (50 * by) ** 2 * 4  # second order: the square of the largest rate, times the distance
    torch.testing.assert_close(step, -alpha.grad, rtol=0, atol=bound)


@settings(deadline=None)
@given(
    st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=9),
    st.floats(0, 1e300),
)
def test_however_strong_it_never_goes_past_the_nearer_of_0_and_1(values, by):
    alpha = torch.tensor(values)
    after, nearer = pulled(alpha, by), (alpha > 0.5).float()
    assert bool(((after - nearer).abs() <= (alpha - nearer).abs()).all())
    assert bool(((after - nearer) * (alpha - nearer) >= 0).all())


def test_0_and_1_and_the_middle_between_them_stay_and_nan_shows():
    still = torch.tensor([0.0, 1.0, 0.5])
    assert torch.equal(pulled(still, 100.0), still)
    assert math.isnan(float(pulled(torch.tensor(math.nan), 1.0)))


def test_the_pull_grows_geometrically_with_progress_whatever_the_steps():
    found = Shortcuts(strength=3e-4, growth=1e4)
    assert found.temperature(0.0) == pytest.approx(3e-4)
    assert found.temperature(0.5) == pytest.approx(3e-2)
    assert found.temperature(1.0) == pytest.approx(3.0)


def test_only_coefficients_of_outputs_that_there_are_move():
    model, found = network(), Shortcuts(strength=1.0)
    before = model.alpha.detach().clone()
    found.after_step(model, 1.0, 1.0)
    moved = model.alpha.detach() != before
    mine = possible(before.shape)
    mine[:, 0] = False
    mine &= (before != 0) & (before != 1)
    assert torch.equal(moved, mine)
    Shortcuts(strength=1.0, convolutions=True).after_step(model, 1.0, 1.0)
    assert bool((model.alpha[:, 0] != before[:, 0]).all())


def test_trained_with_it_coefficients_end_near_0_or_1_and_without_they_do_not(digits):
    gaps = []
    for strength in (0.01, 0.0):
        model, found = network(), gate(f"shortcuts?strength={strength}")
        found.attach(model)
        train(model, digits, Plan(epochs=8, batch=8, lr=0.02), gate=found)
        alpha = model.alpha.detach()[possible((4, 4)) & (torch.arange(4) > 0)]
        gaps.append(float(torch.minimum(alpha.abs(), (1 - alpha).abs()).max()))
    assert gaps[0] < 1e-2 < gaps[1]


def test_weight_decay_leaves_the_coefficients_out_and_frozen_ones_stay():
    model, found = network(), Shortcuts(strength=1.0)
    assert list(found.variables(model)) == ["alpha"]
    model.alpha.requires_grad_(False)
    before = model.alpha.clone()
    found.after_step(model, 1.0, 1.0)
    assert found.variables(model) == {}
    assert torch.equal(model.alpha, before)


# What it removes


def test_those_that_are_not_above_the_threshold_are_gone():
    small = above(0.2)
    assert small.links.int().tolist() == [
        [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 0]
    ]  # fmt: skip
    assert bool((small.alpha[~small.links] == 0).all())
    assert torch.equal(small.alpha[small.links], network().alpha[small.links])


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.2, 0.5, 1.0])
def test_it_computes_what_the_network_does_with_those_coefficients_at_0(threshold):
    model, small = network(), above(threshold)
    with torch.no_grad():
        model.alpha.masked_fill_(~small.links, 0.0)
    torch.testing.assert_close(small(INPUTS), model(INPUTS))


def test_the_network_it_is_taken_from_stays_as_it_is():
    model = network()
    before, outputs = copy.deepcopy(model.state_dict()), model(INPUTS)
    above(0.2, model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(model(INPUTS), outputs)


def test_fewer_terms_are_computed_for_real():
    def sums(model: nn.Module) -> int:
        with torch.profiler.profile() as seen:
            model(INPUTS)
        return sum(e.count for e in seen.key_averages() if e.key == "aten::mul")

    assert sums(above(0.2)) < sums(network())


def test_zeros_stay_zero_and_links_stay_false_in_training(digits):
    small = above(0.2)
    links = small.links.clone()
    for optimizer in ("sgd", "adam"):
        train(small, digits, Plan(epochs=1, batch=16, optimizer=optimizer, lr=0.01))
        assert torch.equal(small.links, links)
        assert bool((small.alpha[~links] == 0).all())
    assert bool((small.alpha[links] != network().alpha[links]).any())


def test_binarised_those_that_stay_are_1_and_are_trained_no_more(digits):
    small = above(0.2, binarise=True)
    assert small.alpha[:, 1:].tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert torch.equal(small.alpha[:, 0], network().alpha[:, 0])
    before = small.alpha.clone()
    weights = small.linear.weight.detach().clone()
    train(small, digits, Plan(epochs=1, batch=16, weight_decay=0.1))
    assert torch.equal(small.alpha, before)
    assert not torch.equal(small.linear.weight, weights)


def test_below_0_a_coefficient_is_worth_its_size_but_never_1():
    assert float(Shortcuts().scores(network())["alpha"][1, 2]) == pytest.approx(0.4)
    binary = Shortcuts(binarise=True).scores(network())["alpha"]
    assert float(binary[1, 2]) == pytest.approx(-0.4)
    assert float(binary[3, 0]) == pytest.approx(0.3)  # of the convolution: its sign is free


def test_convolutions_stay_unless_they_are_asked_for_and_no_iteration_is_left_empty():
    assert bool(above(1.0).links[:, 0].all())
    small = above(0.15, convolutions=True)
    assert small.links.int().tolist() == [
        [0, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 1], [1, 0, 0, 0]
    ]  # fmt: skip
    last = above(1.0, convolutions=True)
    assert last.links.sum(1).tolist() == [1, 1, 1, 1]
    assert last.links.int().argmax(1).tolist() == [1, 2, 3, 0]
    assert bool(torch.isfinite(last(INPUTS)).all())


def test_links_that_are_gone_stay_gone_when_it_is_cut_again():
    once = above(0.2)
    twice = above(0.5, once)
    assert not bool((twice.links & ~once.links).any())
    assert twice.links.sum() < once.links.sum()
    assert torch.equal(above(0.5).links, twice.links)


def test_a_file_of_it_has_the_links(tmp_path):
    small = above(0.2)
    thrifty.save(small, tmp_path / "small.safetensors")
    again = thrifty.load(tmp_path / "small.safetensors").eval()
    assert torch.equal(again.links, small.links)
    assert torch.equal(again(INPUTS), small(INPUTS))


def test_any_module_of_its_own_coefficients_can_have_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), Own(), nn.Linear(3, 2))
    with torch.no_grad():
        model[1].alpha[2, 2] = 0.1
    inputs, found = torch.randn(4, 2), Shortcuts()
    groups = found.own_units(model)
    assert [(g.name, g.units) for g in groups] == [("1.alpha", 5)]
    keep = torch.tensor([True, True, False, True, False])
    small = found.removed(model, groups, {"1.alpha": keep})
    assert small[1].links.int().tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 0]]
    with torch.no_grad():
        model[1].alpha.masked_fill_(~small[1].links, 0.0)
    torch.testing.assert_close(small(inputs), model(inputs))


def test_one_call_removes_them_by_a_threshold():
    data = [(INPUTS, torch.zeros(5, dtype=torch.long))]
    budget = Budget(0.2, of="threshold")
    small = prune_channels(network(), "shortcuts", budget, INPUTS, data=data)
    assert torch.equal(small.links, above(0.2).links)


# Wrong input


def test_a_network_without_shortcuts_is_told_which_method_would_do():
    for model in (nn.Linear(2, 2), thrifty.resolve("lenet")):
        with pytest.raises(UserError, match=r"has none; .* thriftynet, .* slimming.* l1_filter"):
            gate("shortcuts").attach(model)


@pytest.mark.parametrize("wrong", [-0.1, 1.5, math.nan, math.inf, True, "0.2", None])
def test_a_threshold_outside_of_0_to_1_is_refused(wrong):
    with pytest.raises(UserError, match=r"no threshold of the gate shortcuts.* such as 0\.2"):
        Shortcuts().cutoff(wrong)


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("shortcuts?strength=-1", "strength=-1; give 0 or more"),
        ("shortcuts?growth=0.5", "growth=0.5; give 1 or more"),
        ("shortcuts?growth=nan", "growth"),
        ("shortcuts?binarise=2", "binarise=2; give true or false"),
        ("shortcuts?convolutions=x", "convolutions='x'; give true or false"),
        ("shortcuts?binarize=true", "did you mean binarise"),
    ],
)
def test_options_that_are_none_are_refused(spec, match):
    with pytest.raises(UserError, match=match):
        gate(spec)


def test_patterns_leave_modules_alone_and_must_match():
    model = nn.ModuleList([Own(), Own()])
    assert list(recursions_of(model, ["0.alpha"])) == ["1"]
    assert [g.name for g in Shortcuts(keep="0.alpha").own_units(model)] == ["1.alpha"]
    with pytest.raises(UserError, match="leaves no shortcuts"):
        Shortcuts(keep=["*"]).attach(model)
    with pytest.raises(UserError, match="nonsense"):
        Shortcuts(keep="nonsense").attach(model)


def test_what_does_not_fit_the_units_is_refused():
    model, found = network(), Shortcuts()
    groups = found.own_units(model)
    for wrong in (torch.ones(3, dtype=torch.bool), torch.ones(9), [True] * 9):
        with pytest.raises(UserError, match=r"it is torch.bool of \(9,\), a value a shortcut"):
            found.removed(model, groups, {"alpha": wrong})
    with pytest.raises(UserError, match="no group is called 'beta'"):
        found.removed(model, groups, {"beta": torch.ones(9, dtype=torch.bool)})
    with pytest.raises(UserError, match="find the units of this network"):
        found.removed(Own(), groups, {"alpha": torch.zeros(9, dtype=torch.bool)})


def test_only_sizes_that_go_together_are_a_recursion():
    model = Own()
    assert is_recursion(model)
    model.links = torch.ones(3, 2, dtype=torch.bool)
    assert not is_recursion(model)
    model.links = torch.ones(3, 3)
    assert not is_recursion(model)


# Runs

RUN = {
    "model": NET,
    "data": "digits?train=160&test=80",
    "seeds": 1,
    "train": {"epochs": 2, "batch": 16},
    "retrain": {"epochs": 1},
    "latency": False,
    "machine": {"workers": 1},
    "prune": {"method": "shortcuts", "threshold": [0.1, 0.2, 0.5]},
}


def results(folder):
    return {
        path.parent.name: {k: v.numpy().tobytes() for k, v in thrifty_file(path).items()}
        for path in folder.glob("steps/*/model.safetensors.zst")
    }


def thrifty_file(path):
    return thrifty.load(path).state_dict()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    told: list[str] = []
    folder = tmp_path_factory.mktemp("run")
    run(make(RUN), folder, tell=lambda event: told.append(event.get("message", "")))
    return folder, told


def test_every_threshold_leaves_the_coefficients_above_it(finished):
    folder, told = finished
    (gated,) = folder.glob("steps/seed0-shortcuts-gated-*")
    scores = load_file(gated / "gates.safetensors")["alpha"]
    assert scores.shape == (4, 4)
    for threshold in (0.1, 0.2, 0.5):
        (path,) = folder.glob(f"steps/seed0-shortcuts-{threshold}-*/model.safetensors.zst")
        model = thrifty.load(path)
        left = (scores.double() > threshold)[:, 1:]
        assert torch.equal(model.links[:, 1:], left)
        said = f"level {threshold:g} leaves {int(left.sum())} of 9 numbers of alpha"
        assert any(said in message for message in told)


def test_the_front_says_threshold_and_counts_what_is_gone(finished):
    front = Store(finished[0]).front()
    points = {p.threshold: p for p in front.points if p.method == "shortcuts"}
    assert sorted(points) == [0.1, 0.2, 0.5]
    nonzero = [r.nonzero for r in front.records if r.method == "shortcuts"]
    assert nonzero == sorted(nonzero, reverse=True)
    assert {p.method for p in front.points} == {"dense", "shortcuts", "control"}


def test_killed_in_between_it_goes_on_to_the_same_bits(finished, tmp_path):
    recipe = tmp_path / "r.yaml"
    machine = {"workers": 1, "checkpoint_seconds": 0}
    recipe.write_text(json.dumps({**RUN, "machine": machine}))
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "thrifty", "run", str(recipe), "--out", str(folder), "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(folder.glob("steps/*/record.json"))) < 3:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run(make(RUN), folder)
    assert results(folder) == results(finished[0])


def test_a_budget_is_refused_before_any_training(tmp_path):
    said = {**RUN, "prune": {"method": "shortcuts", "sparsity": [0.5]}}
    with pytest.raises(UserError, match="no sparsity can be met .* give a threshold"):
        run(make(said), tmp_path / "run")
    assert not list(tmp_path.glob("run/steps/*"))

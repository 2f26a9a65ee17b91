"""Modules that run in training only, such as auxiliary heads, lose channels with the rest."""

import random
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from thrifty.channels.costs import Costs
from thrifty.channels.finding import groups
from thrifty.channels.removal import CUT, removed, silenced
from thrifty.channels.shrinking import shrink, surgery
from thrifty.nets import count_macs, resolve
from thrifty.pruning.structured import prune_channels


class Both(NamedTuple):
    logits: Tensor
    aux: Tensor


class Headed(nn.Module):
    """A body, its head, and a head of its own for training; ``path`` is what leads there."""

    def __init__(self, path=lambda self, x: x, size=None):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3)
        self.fc = nn.Linear(6, 4)
        self.aux = nn.Sequential(nn.Conv2d(8, 5, 1, bias=False), nn.BatchNorm2d(5), nn.ReLU())
        self.aux_fc = nn.Linear(5, 4)
        self.path, self.size = path, size

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        out = self.fc(functional.relu(self.conv2(x)).mean((2, 3)))
        if not self.training:
            return out
        y = self.aux(self.path(self, x)).mean((2, 3))
        return Both(out, self.aux_fc(y if self.size is None else y.reshape(-1, self.size)))


def example(side=8):
    return torch.randn(2, 3, side, side)


def without_a_third(model, found):
    kept = {g.name: torch.arange(g.units) % 3 != 1 for g in found.free}
    return removed(model, found, kept)[0], silenced(model, found, kept, CUT), kept


def gaps(ours, theirs):
    return [float((a - b).detach().abs().max()) for a, b in zip(ours, theirs, strict=True)]


def test_a_head_for_training_loses_what_it_reads(trained):
    model = trained(Headed())
    found = groups(model, example())
    assert {g.name for g in found.free} == {"conv1", "conv2", "aux.0"}
    assert ("aux.0.weight", 1, "in") in [(m.tensor, m.dim, m.role) for m in found["conv1"].members]
    assert "aux_fc.weight" in [m.tensor for m in found["aux.0"].of("in")]
    assert found.training_only == ("aux", "aux_fc")
    assert "aux, aux_fc" in found.notes[0]


def test_the_smaller_network_trains_as_the_one_with_zeros_does(trained):
    model = trained(Headed())
    small, quiet, _ = without_a_third(model, groups(model, example()))
    x = example()
    assert max(gaps(small.train()(x), quiet.train()(x))) < 1e-5  # with statistics of the batch
    sum(out.sum() for out in small(x)).backward()
    assert all(p.grad is not None for p in small.parameters())


def test_a_network_of_torchvision_with_auxiliary_heads_still_trains(trained):
    model = trained(resolve("torchvision:googlenet"))
    x = example(64)
    found = groups(model, x)
    assert found.training_only == ("aux1", "aux2")
    small, quiet, kept = without_a_third(model, found)
    for net in (small, quiet):
        for module in net.train().modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    ours, theirs = small(x), quiet(x)
    assert type(ours).__name__ == "GoogLeNetOutputs"
    assert max(gaps(ours, theirs)) < 1e-3
    done = surgery(model, example=x, kept=kept, groups=found)
    assert done.difference < 1e-5
    assert done.model.train()(x).aux_logits1.shape == (2, 1000)


def test_a_picture_too_small_for_the_head_of_inception_keeps_what_it_reads(trained):
    model = trained(resolve("torchvision:inception_v3"))
    found = groups(model, example(80), check=False)
    held = {g.name for g in found if g.whole and "AuxLogits runs in training only" in g.whole}
    assert held and all(name.startswith("Mixed_6e.") for name in held)
    assert len(found.free) > 80


def test_a_network_that_lost_channels_by_a_budget_trains(trained):
    small = prune_channels(trained(Headed()), "l1_filter", 0.5, example(), round=1)
    assert small.aux[0].in_channels == small.conv1.out_channels < 8
    assert small.train()(example()).aux.shape == (2, 4)


def test_the_model_and_the_draws_of_others_are_not_touched(trained):
    model = trained(Headed(path=lambda self, x: functional.dropout(x, 0.5, self.training)))
    model.aux.train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    torch.manual_seed(3)
    random.seed(3)
    groups(model, example())
    drawn = torch.rand(3), random.random()
    torch.manual_seed(3)
    random.seed(3)
    example()
    assert torch.equal(drawn[0], torch.rand(3))
    assert drawn[1] == random.random()
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert model.aux.training and not model.bn1.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_multiply_adds_are_those_of_eval_mode(trained):
    model = trained(Headed())
    found = groups(model, example())
    assert Costs(model, found).of({}).macs == count_macs(model, (3, 8, 8))
    small, _, kept = without_a_third(model, found)
    assert Costs(model, found).of(kept).macs == count_macs(small, (3, 8, 8))


def test_what_a_silent_channel_sends_is_folded_into_the_head_too(trained):
    model = trained(Headed())
    with torch.no_grad():
        model.conv1.weight[:3] = 0
        model.bn1.running_mean[:3] = 0
        model.bn1.bias[:3] = 0.7
    model.aux[1] = nn.Identity()  # a norm would take the constant away again
    small = shrink(model, example=example())
    assert small.conv1.out_channels == 5
    x = example()
    assert max(gaps(small.train()(x), model.train()(x))) < 1e-5


def test_a_channel_that_only_a_head_for_training_reads_stays(trained):
    model = trained(Headed())
    with torch.no_grad():
        model.conv2.weight[:, :2] = 0
    assert shrink(model, example=example()).conv1.out_channels == 8
    with torch.no_grad():
        model.aux[0].weight[:, :2] = 0
    assert shrink(model, example=example()).conv1.out_channels == 6


def stochastic_depth(self, x):
    return x * x.new_empty((len(x), 1, 1, 1)).bernoulli_(0.5)


@pytest.mark.parametrize(
    "path",
    [
        lambda self, x: functional.dropout(x, 0.3, self.training),
        lambda self, x: functional.dropout2d(x, 0.3, self.training),
        lambda self, x: functional.alpha_dropout(x, 0.3, self.training),
        lambda self, x: nn.Dropout(0.3)(x),
        lambda self, x: torch.bernoulli(torch.full_like(x, 0.3)) * x,
        lambda self, x: torch.empty_like(x).bernoulli_(0.3) * x,
        lambda self, x: x + torch.randn_like(x),
        lambda self, x: x + torch.empty_like(x).uniform_(-1, 1),
        lambda self, x: functional.rrelu(x, training=self.training),
        stochastic_depth,
        lambda self, x: x if random.random() < 0.5 else -x,
    ],
)
def test_what_is_drawn_in_training_keeps_no_channel(path, trained):
    found = groups(trained(Headed(path)), example())
    assert {g.name for g in found.free} == {"conv1", "conv2", "aux.0"}


def test_a_head_whose_code_knows_its_size_stays_whole(trained):
    found = groups(trained(Headed(size=5)), example())
    assert {g.name for g in found.free} == {"conv1", "conv2"}
    assert "the code of the network" in found["aux.0"].whole


def too_small(self, x):
    return functional.conv2d(x, x.new_ones(8, 8, 9, 9))


def by_its_data(self, x):
    return x if x.sum().item() > 0 else -x


def test_a_head_that_does_not_take_the_example_keeps_what_it_reads(trained):
    model = trained(Headed())
    model.aux.insert(0, nn.MaxPool2d(7))
    found = groups(model, example())
    assert {g.name for g in found.free} == {"conv2"}
    assert found["conv1"].whole.startswith("aux runs in training only, and could not be followed")
    assert "give an example that the network can train on" in found.notes[0]
    small, *_ = without_a_third(model, found)
    assert small.train()(example(16)).aux.shape == (2, 4)
    assert {g.name for g in groups(model, example(16)).free} == {"conv1", "conv2", "aux.1"}


@pytest.mark.parametrize("path", [too_small, by_its_data], ids=["size", "data"])
def test_a_way_to_a_head_that_cannot_be_followed_is_told(path, trained):
    found = groups(trained(Headed(path)), example())
    assert "not run in eval mode: aux, aux_fc; training mode did not take" in found.notes[0]
    assert "conv2" in {g.name for g in found.free}
    assert found.to_dict()["notes"] == list(found.notes)


def test_a_head_that_fails_half_way_keeps_its_own_channels_too(trained):
    model = trained(Headed(size=7))
    found = groups(model, example())
    assert {g.name for g in found.free} == {"conv2"}
    assert "could not be followed" in found["aux.0"].whole


def test_layers_that_never_run_change_nothing(net):
    layers = {"a": nn.Conv2d(3, 8, 1), "b": nn.Conv2d(8, 4, 1)}
    plain = net(lambda self, x: self.b(self.a(x)), **layers)
    spare = net(lambda self, x: self.b(self.a(x)), **layers, unused=nn.Linear(8, 8))
    found, ours = groups(plain, example()), groups(spare, example())
    assert ours.to_rows() == found.to_rows()
    assert (ours.notes, ours.training_only) == ((), ())


def test_a_parameter_of_its_own_that_only_training_reads_goes_along(net):
    def forward(self, x):
        x = self.a(x)
        return self.b(x * self.margin if self.training else x)

    model = net(forward, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 4, 1))
    model.margin = nn.Parameter(torch.rand(8, 1, 1))
    found = groups(model, example())
    assert found.training_only == ("margin",)
    small, quiet, _ = without_a_third(model, found)
    assert small.margin.shape == (5, 1, 1)
    assert max(gaps([small.train()(example() * 0 + 1)], [quiet.train()(example() * 0 + 1)])) < 1e-5

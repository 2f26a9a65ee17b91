"""Which channels go: scores of units, budgets, rounding, refusals."""

import pytest
import torch
from torch import nn

import thrifty
from thrifty.channels.costs import Costs
from thrifty.channels.finding import groups
from thrifty.channels.shrinking import surgery
from thrifty.errors import UserError
from thrifty.pruning.allocation import Budget
from thrifty.pruning.gates import gate
from thrifty.pruning.structured import (
    ChannelCut,
    as_masks,
    asked,
    choose,
    prune_channels,
    relative,
    scores,
)

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 5),
    )


def test_the_l1_score_of_a_channel_is_the_norm_of_its_filter():
    model = chain()
    found = scores(model, groups(model, EXAMPLE), ChannelCut.of("l1_filter"))
    torch.testing.assert_close(found["0"], model[0].weight.detach().abs().sum((1, 2, 3)))
    assert list(found) == ["0", "3"]


def test_the_slimming_score_is_the_scale_and_layers_without_one_are_left():
    model = chain()
    nn.init.normal_(model[1].weight)
    found = scores(model, groups(model, EXAMPLE), ChannelCut.of("slimming"))
    assert list(found) == ["0"]
    torch.testing.assert_close(found["0"], model[1].weight.detach().abs())


def test_the_group_norm_score_adds_what_makes_and_what_reads_a_channel():
    model = chain()
    found = scores(model, groups(model, EXAMPLE), ChannelCut.of("group_norm"))["0"]
    made = model[0].weight.detach().square().sum((1, 2, 3))
    read = model[3].weight.detach().square().sum((0, 2, 3))
    scale = model[1].weight.detach().square()
    torch.testing.assert_close(found, (made + read + scale) / 3)


@pytest.mark.parametrize("gone", [1, 7, 20, 33])
def test_relative_scores_cut_at_once_what_unit_by_unit_would_go(gone):
    generator = torch.Generator().manual_seed(0)
    layers = [torch.rand(n, generator=generator) ** p for n, p in ((8, 1), (16, 3), (12, 0.2))]
    left = [sorted(x.tolist()) for x in layers]
    for _ in range(gone):
        beside_the_rest = [x[0] / (sum(x) / len(x)) if x else float("inf") for x in left]
        left[beside_the_rest.index(min(beside_the_rest))].pop(0)
    measures = [relative(x) for x in layers]
    limit = torch.cat(measures).sort().values[gone - 1]
    for layer, measure, rest in zip(layers, measures, left, strict=True):
        assert sorted(layer[measure > limit].tolist()) == rest


def test_relative_scores_keep_the_order_of_a_layer():
    score = torch.tensor([0.0, 0.0, 5.0, 1.0, 1.5, 1.6, 1.7])
    assert torch.equal(relative(score).sort(stable=True).indices, score.sort(stable=True).indices)
    assert len(relative(score).unique()) == len(score)


def test_the_geometric_median_gives_up_the_filter_that_others_repeat():
    model = chain()
    with torch.no_grad():
        model[0].weight[5] = model[0].weight.mean(0)
    found = scores(model, groups(model, EXAMPLE), ChannelCut.of("fpgm"))["0"]
    assert int(found.argmin()) == 5


def test_the_taylor_score_counts_gradients_that_cancel():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 8), nn.ReLU(), nn.Linear(8, 5))
    labels = torch.tensor([0, 1])
    batches = [(EXAMPLE[:1], labels[:1]), (EXAMPLE[1:], labels[1:])]
    found = scores(model, groups(model, EXAMPLE), ChannelCut.of("taylor"), data=batches)["1"]
    expected = torch.zeros_like(model[1].weight)
    for x, y in batches:
        loss = nn.functional.cross_entropy(model(x), y)
        expected += torch.autograd.grad(loss, model[1].weight)[0].square() / 2
    torch.testing.assert_close(found, (expected * model[1].weight.square()).sum(1).detach())


def test_scores_of_gates_take_the_place_of_a_criterion():
    model = chain()
    given = {"0.weight": torch.arange(16.0)}
    found = scores(model, groups(model, EXAMPLE), ChannelCut.of("slimming"), given=given)
    assert list(found) == ["0"]
    assert found["0"].tolist() == list(range(16))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.ConvTranspose2d(8, 8, 2, groups=4), [1.5, 3.5, 5.5, 7.5]),
        (nn.ConvTranspose2d(16, 8, 2, groups=8), [1, 2, 3, 4, 5, 6, 7, 8]),
        (nn.ConvTranspose2d(8, 16, 2, groups=4), [2.5, 6.5, 10.5, 14.5]),
        (nn.ConvTranspose2d(12, 8, 2, groups=4), [1.5, 3.5, 5.5, 7.5]),
    ],
    ids=str,
)
def test_gates_of_a_grouped_transposed_convolution_score_its_groups(layer, expected):
    torch.manual_seed(0)
    first = nn.Conv2d(3, layer.in_channels, 1)
    model = nn.Sequential(first, nn.ReLU(), layer, nn.ReLU(), nn.Conv2d(layer.out_channels, 2, 1))
    found = groups(model, EXAMPLE)
    gates = gate("channel_scale", groups=found, keep="0.weight")
    gates.attach(model)
    model(EXAMPLE)
    with torch.no_grad():
        model[2].channel_gate.copy_(torch.arange(1.0, layer.out_channels + 1))
    given = gates.scores(model)
    gates.fold(model)
    assert scores(model, found, ChannelCut(), given=given)["0"].tolist() == expected
    best = {"0": torch.tensor(expected) > expected[0]}
    small = surgery(model, example=EXAMPLE, kept=best, groups=found).model
    assert small[2].groups == layer.groups - 1


def test_scores_that_fit_no_channel_are_refused():
    model = chain()
    with pytest.raises(UserError, match=r"0\.weight has 7 given scores, and 16 slices"):
        scores(model, groups(model, EXAMPLE), ChannelCut(), given={"0.weight": torch.ones(7)})


def test_a_weight_that_is_not_a_number_is_told():
    model = chain()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = torch.nan
    found = groups(model, EXAMPLE, check=False)
    with pytest.raises(UserError, match="0 cannot be scored: magnitude gave NaN"):
        scores(model, found, ChannelCut.of("l1_filter"))


def test_channels_stay_a_multiple_of_eight_or_of_an_eighth_of_a_narrow_layer():
    small = prune_channels(chain(), "l1_filter", Budget(0.37, of="macs"), EXAMPLE)
    assert small[0].out_channels % 2 == 0
    assert small[3].out_channels % 8 == 0
    assert small[3].out_channels < 64


@pytest.mark.parametrize("share", [0.9, 0.5, 0.3, 0.1])
def test_the_largest_network_within_the_budget_is_taken(share):
    model = chain()
    found = groups(model, EXAMPLE)
    how = ChannelCut.of("l1_filter", round=1, allocation="global")
    scored = scores(model, found, how)
    cost, most, name = asked(model, found, Budget(share, of="params"), (3, 8, 8))
    kept = choose(found, scored, cost, most, how, name)
    assert cost(kept) <= most
    left = sum(int(k.sum()) for k in kept.values())
    more = choose(found, scored, lambda k: sum(int(v.sum()) for v in k.values()), left + 1, how)
    assert cost(more) > most


def test_a_budget_that_cannot_be_met_says_the_least_that_can():
    with pytest.raises(UserError, match=r"budget of params of 10 cannot be met.*at least 50"):
        prune_channels(chain(), "l1_filter", Budget(10, of="params"), EXAMPLE, round=1)


def test_a_method_without_anything_to_score_names_another():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with pytest.raises(UserError, match="finds no channels to remove.*scale"):
        prune_channels(model, "slimming", 0.5, EXAMPLE)


def test_a_method_of_weights_is_sent_to_prune():
    with pytest.raises(UserError, match="use thrifty.prune"):
        prune_channels(chain(), "magnitude", 0.5, EXAMPLE)


def test_kept_layers_are_left_whole():
    small = prune_channels(chain(), "l1_filter", Budget(0.6, of="macs"), EXAMPLE, keep=["0"])
    assert small[0].out_channels == 16
    assert small[3].out_channels < 64


def test_layers_have_shares_of_their_own():
    how = ChannelCut.of("l1_filter", allocation="explicit", layers={"3": 0.75}, round=1)
    model = chain()
    found = groups(model, EXAMPLE)
    kept = choose(found, scores(model, found, how), lambda _: 0.0, 0.0, how)
    assert {n: int(k.sum()) for n, k in kept.items()} == {"0": 16, "3": 16}


def test_what_is_removed_is_told_as_masks_of_filters_and_columns():
    model = chain()
    found = groups(model, EXAMPLE)
    keep = torch.ones(16, dtype=torch.bool)
    keep[3] = False
    masks = as_masks(model, found, {"0": keep})
    assert set(masks) == {"0.weight", "3.weight"}
    assert not masks["0.weight"][3].any()
    assert not masks["3.weight"][:, 3].any()
    costs = Costs(model, found)
    gone = costs.of({}).params - costs.of({"0": keep}).params
    assert gone == sum(int((~m).sum()) for m in masks.values()) + 3  # its bias, scale and shift


def test_it_is_there_for_users():
    assert thrifty.prune_channels is prune_channels


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.one = nn.Conv2d(16, 32, 3, padding=1)
        self.two = nn.Conv2d(32, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = (x + self.two(self.one(x).relu())).relu()
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(("share", "stem"), [(0.6, 16), (0.03, 2)])
def test_channels_along_a_sum_are_spared_until_the_budget_needs_them(share, stem):
    torch.manual_seed(0)
    small = prune_channels(Residual(), "l1_filter", Budget(share, of="macs"), EXAMPLE)
    assert small.one.out_channels < 32
    assert (small.stem.out_channels == 16) == (stem == 16)

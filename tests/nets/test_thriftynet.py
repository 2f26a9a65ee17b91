"""ThriftyNet: its recursion, its counts and budgets, what is gone from it, and wrong options."""

import copy
import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import thrifty
from thrifty.errors import UnknownName, UserError
from thrifty.lowering import lower
from thrifty.nets import count_macs
from thrifty.nets.budget import MODES, amount, filters_within, parameters, stem_parameters
from thrifty.nets.describing import describe
from thrifty.nets.thrifty_options import ACTIVATIONS
from thrifty.pack import load, save

SMALL = "thriftynet?filters=8&iterations=5&shape=3x8x8"


def small(options="&history=3"):
    torch.manual_seed(0)
    model = thrifty.resolve(f"{SMALL}{options}")
    with torch.no_grad():
        model.alpha.copy_(torch.randn_like(model.alpha))
    return model


def pictures(size=4, shape=(3, 8, 8)):
    return torch.randn(size, *shape, generator=torch.Generator().manual_seed(1))


def written_out(model, x):
    """The recursion of the paper, as plainly as it can be said; its history is oldest first."""
    x = torch.cat([x, torch.zeros(len(x), model.filters - x.shape[1], *x.shape[2:])], 1)
    history = [x]
    for t in range(model.iterations):
        total = model.alpha[t, 0] * model.act(model.conv(history[-1]))
        for age, before in enumerate(reversed(history[-model.history :]), 1):
            total = total + model.alpha[t, age] * before
        norm = model.norms[t]
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        total = (total - norm.running_mean[:, None, None]) * scale[:, None, None]
        history.append(total + norm.bias[:, None, None])
        if t in model.pools:
            history = [F.max_pool2d(h, 2) for h in history]
    return history[-1].flatten(2).max(2).values @ model.linear.weight.T + model.linear.bias


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("history", [1, 3, 5])
def test_it_is_the_recursion_written_out(mode, history):
    model = small(f"&mode={mode}&history={history}").train()
    model(pictures(16))  # running statistics that are none of a new network
    model.eval()
    torch.testing.assert_close(model(pictures()), written_out(model, pictures()))


@pytest.mark.parametrize(
    "options, count",
    [
        ("filters=163&iterations=30&history=5", 39_636),
        ("filters=208&iterations=30&history=5", 59_886),
        ("filters=64&iterations=14&history=1&mode=classic&act=relu", 39_334),
        ("filters=176&iterations=15&history=5", 39_700),
    ],
)
def test_its_counts_are_the_published_ones(options, count):
    model = thrifty.resolve(f"thriftynet?{options}")
    assert sum(p.numel() for p in model.parameters()) == count


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(sorted(MODES)),
    groups=st.integers(1, 6),
    iterations=st.integers(1, 6),
    history=st.integers(1, 6),
    classes=st.integers(2, 12),
    channels=st.integers(1, 4),
    stem=st.booleans(),
    width=st.sampled_from([0.02, 0.05]),
)
def test_the_formula_is_the_networks_count(
    mode, groups, iterations, history, classes, channels, stem, width
):
    filters = 8 * groups * MODES[mode]
    history = min(history, iterations)
    options = f"filters={round(filters / width) if stem else filters}&iterations={iterations}"
    if stem:
        options += f"&stem=resnet&width={width}&pool_every=0"
    model = thrifty.resolve(
        f"thriftynet?{options}&history={history}&mode={mode}",
        classes=classes,
        shape=(channels, 32, 32),
    )
    sizes = (max(1, round(64 * width)), max(1, round(128 * width)))
    before = stem_parameters(channels, sizes) if stem else 0
    said = parameters(model.filters, iterations, history, classes, mode, before)
    assert said == sum(p.numel() for p in model.parameters())


@settings(max_examples=200, deadline=None)
@given(
    budget=st.integers(500, 10_000_000),
    mode=st.sampled_from(sorted(MODES)),
    iterations=st.integers(1, 50),
    classes=st.integers(2, 200),
)
def test_a_budget_is_filled_and_not_passed(budget, mode, iterations, classes):
    history = min(5, iterations)
    rest = (iterations, history, classes, mode)
    try:
        filters = filters_within(budget, *rest, least=3)
    except UserError as error:
        (least,) = re.findall(r"it has ([\d,]+);", str(error))
        first = -(-3 // MODES[mode]) * MODES[mode]
        assert parameters(first, *rest) == int(least.replace(",", "")) > budget
        return
    assert filters % MODES[mode] == 0
    assert parameters(filters, *rest) <= budget < parameters(filters + MODES[mode], *rest)


@pytest.mark.parametrize(
    "budget, iterations, classes, filters",
    [
        ("40k", 20, 10, 172),
        ("40k", 30, 10, 163),
        ("40k", 40, 10, 155),
        ("40k", 50, 10, 148),
        ("600k", 20, 100, 703),
        ("600k", 30, 100, 694),
        ("600k", 40, 100, 685),
    ],
)
def test_budgets_give_the_filters_of_the_published_networks(budget, iterations, classes, filters):
    with torch.device("meta"):
        model = thrifty.resolve(
            f"thriftynet?budget={budget}&iterations={iterations}", classes=classes
        )
    assert model.filters == filters


def test_the_network_for_large_images_fills_its_budget_with_a_stem():
    with torch.device("meta"):
        model = thrifty.resolve(
            "thriftynet?stem=resnet&budget=4.15M&iterations=18&pool_every=6",
            classes=1000,
            shape=(3, 224, 224),
        )
    count = sum(p.numel() for p in model.parameters())
    assert 4_140_000 < count <= 4_150_000
    assert count_macs(model, (3, 224, 224)) > 10**9


@pytest.mark.parametrize(
    "text, value",
    [("40k", 40_000), ("4.15M", 4_150_000), ("600K", 600_000), (512, 512), (".5k", 500)],
)
def test_amounts_are_read_as_people_write_them(text, value):
    assert amount(text) == value


@pytest.mark.parametrize("text", ["", "k", "-4k", "4kk", "nan", "inf", "40 k b", True, "1e400k"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(UserError, match="write it as 40k"):
        amount(text)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_with_checkpointing_are_those_without(mode):
    models = [small(f"&mode={mode}").train() for _ in range(2)]
    models[1].checkpointing = True
    for _ in range(2):
        losses = [F.cross_entropy(m(pictures()), torch.arange(4)) for m in models]
        torch.testing.assert_close(losses[0], losses[1])
        for loss in losses:
            loss.backward()
    pairs = zip(models[0].named_parameters(), models[1].parameters(), strict=True)
    for (name, one), two in pairs:
        torch.testing.assert_close(one.grad, two.grad, msg=name)


def test_running_statistics_with_checkpointing_are_those_without():
    models = [small().train() for _ in range(2)]
    models[1].checkpointing = True
    for model in models:
        for _ in range(3):
            model(pictures()).sum().backward()
    one, two = (m.state_dict() for m in models)
    for name in one:
        assert torch.equal(one[name], two[name]), name


def test_what_lies_between_iterations_is_not_kept_with_checkpointing():
    kept = []
    for again in (False, True):
        model, held = small().train(), {}
        model.checkpointing = again

        def hold(x, held=held):
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(hold, lambda x: x):
            model(pictures(64)).sum()
        kept.append(sum(held.values()))
    assert kept[1] < kept[0] / 2


def test_a_link_that_is_gone_is_not_computed():
    model = small().eval()
    before, uses = count_macs(model, (3, 8, 8)), []
    model.conv.register_forward_hook(lambda *_: uses.append(1))
    model.links[1, 0] = False
    model.links[:, 2] = False
    model(pictures())
    assert len(uses) == model.iterations - 1
    assert count_macs(model, (3, 8, 8)) < before


def test_a_link_that_is_gone_is_a_coefficient_of_zero():
    model = small("&pool_every=2&history=3").eval()
    gone = copy.deepcopy(model)
    drop = torch.rand(model.alpha.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    drop[3] = True  # a whole iteration
    gone.links &= ~drop
    with torch.no_grad():
        model.alpha[drop] = 0
    torch.testing.assert_close(gone(pictures()), model(pictures()))


def test_links_come_back_from_a_file_and_hold_there(tmp_path):
    model = small().eval()
    model.links[2, 0] = False
    model.links[4, 1] = False
    save(model, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors").eval()
    assert torch.equal(again.links, model.links)
    assert torch.equal(again(pictures()), model(pictures()))
    assert count_macs(again, (3, 8, 8)) == count_macs(model, (3, 8, 8))


def test_links_that_changed_are_known_to_tracers_before_any_run():
    model, changed = small().eval(), small().eval()
    changed.links.copy_(torch.zeros_like(changed.links))
    changed.links[:, :2] = True
    sizes = []
    for each in (model, changed):
        lowered = lower(each, pictures())
        graph = torch.export.export(each.eval(), (pictures(),)).graph
        sizes.append((len(graph.nodes), len(lowered.program.ops)))
    assert sizes[1] < sizes[0]
    assert sizes[1][1] < sizes[0][1]


def test_a_stream_without_some_channels_is_the_stream_with_those_silent():
    model = small("&history=2").eval()
    kept = torch.tensor([0, 2, 3, 5, 7])
    mask = torch.zeros(8)
    mask[kept] = 1
    with torch.no_grad():
        for norm in model.norms:
            norm.bias.mul_(mask)
            norm.weight.mul_(mask)
        model.conv[0].weight.mul_(mask[:, None, None, None])
    narrow = copy.deepcopy(model)
    narrow.kept = kept
    with torch.no_grad():
        narrow.conv[0] = nn.Conv2d(5, 5, 3, padding=1, groups=5, bias=False)
        narrow.conv[0].weight.copy_(model.conv[0].weight[kept])
        narrow.conv[1] = nn.Conv2d(5, 5, 1, bias=False)
        narrow.conv[1].weight.copy_(model.conv[1].weight[kept][:, kept])
        for norm, whole in zip(narrow.norms, model.norms, strict=True):
            for leaf in ("weight", "bias", "running_mean", "running_var"):
                setattr(norm, leaf, type(getattr(norm, leaf))(getattr(whole, leaf)[kept]))
        narrow.linear.weight = nn.Parameter(model.linear.weight[:, kept])
    x = pictures()
    x[:, 1] = 0  # an input channel that is gone
    torch.testing.assert_close(narrow(x), model(x))


def test_tensors_that_make_no_network_are_told():
    model = small()
    assert model.fault(model.state_dict()) is None
    for name, tensor, said in [
        ("kept", torch.tensor([0, 1]), "stream 8 channels"),
        ("kept", torch.arange(8).flip(0), "rising order"),
        ("kept", torch.arange(1, 9), "outside of 0..7"),
        ("alpha", torch.zeros(5, 3), "alpha has the shape"),
        ("links", torch.ones(4, 4, dtype=torch.bool), "links has the shape"),
    ]:
        assert said in model.fault({**model.state_dict(), name: tensor})


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 48), (1, 5, 40)])
@pytest.mark.parametrize("iterations", [1, 3, 30])
def test_it_pools_evenly_to_one_pixel_of_the_shorter_side(shape, iterations):
    model = thrifty.resolve(
        f"thriftynet?filters=4&iterations={iterations}&history=1", shape=shape
    ).eval()
    times = min(min(shape[1:]).bit_length() - 1, iterations)
    assert len(model.pools) == times
    assert model(torch.zeros(2, *shape)).shape == (2, 10)
    gaps = {b - a for a, b in itertools.pairwise(sorted(model.pools))}
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert iterations - 1 in model.pools


def test_pools_are_given_as_a_period_a_list_or_none():
    def pools(option):
        return sorted(thrifty.resolve(f"thriftynet?filters=4&pool_every={option}").pools)

    assert pools("7") == [6, 13, 20, 27]
    assert pools("4,9,14") == [4, 9, 14]
    assert pools("3,") == [3]
    assert pools("0") == []


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_activation_gives_finite_logits_and_gradients(act):
    model = small(f"&act={act}").train()
    model(pictures()).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_new_network_carries_on_the_newest_output_or_the_oldest():
    newest, oldest = (
        thrifty.resolve(f"thriftynet?filters=4&start={start}").alpha
        for start in ("newest", "oldest")
    )
    assert newest[:, 1].tolist() == oldest[:, 5].tolist() == pytest.approx([0.9] * 30)
    assert newest[:, 0].tolist() == oldest[:, 0].tolist() == pytest.approx([0.1] * 30)
    assert newest.count_nonzero() == oldest.count_nonzero() == 60


def test_the_shared_convolution_counts_once_in_parameters_and_every_time_in_multiply_adds():
    found = describe("thriftynet")
    by_name = {each.name: each for each in found.layers}
    assert by_name["conv.1"].uses == 30
    assert by_name["conv.1"].parameters == 163 * 163
    assert by_name["conv.1"].macs == 163 * 163 * 6 * (1024 + 256 + 64 + 16 + 4)
    assert sum(each.parameters for each in found.layers) == found.parameters == 39_636
    assert (
        sum(each.macs for each in found.layers)
        == found.macs
        == count_macs(thrifty.resolve("thriftynet"), (3, 32, 32))
    )


@pytest.mark.parametrize(
    "options, said",
    [
        ("mode=mb3", "did you mean mb"),
        ("act=tahn", "did you mean tanh"),
        ("start=middle", "there is newest, oldest|did you mean"),
        ("stem=vgg", "resnet"),
        ("history=6&iterations=5", "give a history of at most 5"),
        ("filters=0", "whole number from 1"),
        ("filters=2.5", "whole number from 1"),
        ("iterations=0", "whole number from 1"),
        ("filters=2", "an input of 3 channels"),
        ("filters=10&mode=mb4", "give 8 or 12"),
        ("pool_every=2", "15 poolings of an image of 32x32"),
        ("pool_every=5,3", "in rising order"),
        ("pool_every=40,", "from 0 to 29"),
        ("pool_every=-1", "in rising order"),
        ("pool_every=often", "in rising order"),
        ("budget=400", "too small for any thriftynet.*it has 436"),
        ("budget=much", "write it as 40k"),
        ("budget=40k&filters=20", "a budget decides"),
        ("budget=40k&width=2", "a width would leave the budget"),
        ("stem=resnet&filters=100", "a stem of 128 channels"),
        ("stem=resnet&pool_every=6", "4x4 behind the stem"),
        ("shape=3x2x2", "sides from 4"),
        ("shape=12", "works on images"),
        ("classes=1", "2 or more"),
    ],
)
def test_wrong_options_are_refused_with_what_is_allowed(options, said):
    with pytest.raises(UserError, match=said):
        thrifty.resolve(f"thriftynet?{options}")


def test_all_mistakes_are_said_at_once():
    with pytest.raises(UserError) as caught:
        thrifty.resolve("thriftynet?mode=mb3&act=tahn&history=9&iterations=5")
    assert all(word in str(caught.value) for word in ("mb3", "tahn", "history=9"))


def test_only_built_in_networks_are_described():
    with pytest.raises(UnknownName, match="did you mean thriftynet"):
        describe("thriftnet")


def test_a_description_names_options_that_are_not_the_default():
    text = str(describe("thriftynet?history=2"))
    assert "history=2  (default 5)" in text
    assert "One convolution used again and again" in text

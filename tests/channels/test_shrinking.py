"""Shrinking as users call it: by masks, zeros, chosen units; and what they may get wrong."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import thrifty
from thrifty.channels.finding import groups
from thrifty.channels.shrinking import shrink, surgery
from thrifty.errors import UserError

PICTURE = (2, 3, 8, 8)


def conv(ins, outs):
    return nn.Conv2d(ins, outs, 3)


@pytest.fixture(name="model")
def small_model(chain):
    return chain(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6), nn.Flatten(), nn.Linear(96, 3)
    )


@pytest.fixture(name="example")
def one_example():
    return torch.randn(PICTURE)


def rows_gone(model, name, rows):
    mask = torch.ones_like(dict(model.named_parameters())[name], dtype=torch.bool)
    mask[rows] = False
    return {name: mask}


def test_masks_give_the_outputs_of_the_masked_network(model, example):
    masks = rows_gone(model, "0.weight", [1, 2]) | rows_gone(model, "3.weight", [5])
    before = copy.deepcopy(model.state_dict())
    small = thrifty.shrink(model, masks, example)
    assert [small[0].out_channels, small[3].out_channels] == [6, 5]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    thrifty.apply(model, masks)
    x = torch.randn(PICTURE)
    torch.testing.assert_close(small(x), model(x), atol=1e-5, rtol=1e-5)


def test_single_zeros_stay_zero_and_remove_nothing(model, example):
    masks = {"0.weight": torch.rand_like(model[0].weight) > 0.5}
    masks["0.weight"][:, 0, 0, 0] = True
    small = shrink(model, masks, example)
    assert small[0].out_channels == 8
    assert torch.equal(small[0].weight != 0, masks["0.weight"])


def test_zeros_in_the_weights_count_without_masks(model, example):
    with torch.no_grad():
        model[0].weight[[0, 7]] = 0
    small = shrink(model, example=example)
    assert small[0].out_channels == 6
    assert model[0].out_channels == 8


def test_a_network_without_zeros_is_returned_as_it_was(model, example):
    done = surgery(model, example=example)
    assert (done.kept, done.border, done.attributes) == ({}, 0, {})
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in done.model.state_dict().items())
    assert done.model is not model


def test_a_network_masked_by_torch_is_read_and_not_harmed(model, example):
    torch_prune.ln_structured(model[0], "weight", amount=3, n=1, dim=0)
    before = copy.deepcopy(dict(model.named_parameters())), list(model.state_dict())
    with torch.no_grad():
        expected = model(example)
    small = shrink(model, example=example)
    assert small[0].out_channels == 5
    assert sorted(n for n, _ in small[0].named_parameters()) == ["bias", "weight"]
    torch.testing.assert_close(small(example), expected, atol=1e-5, rtol=1e-5)
    assert list(model.state_dict()) == before[1]
    assert all(torch.equal(before[0][k], p) for k, p in model.named_parameters())
    assert torch_prune.is_pruned(model)
    with torch.no_grad():
        assert torch.equal(model(example), expected)


def test_a_layer_that_masks_leave_nothing_of_keeps_one_channel(model, example):
    masks = rows_gone(model, "0.weight", list(range(8)))
    done = surgery(model, masks, example)
    assert done.model[0].out_channels == 1
    assert done.border <= 1e-5


def test_rounding_keeps_some_that_could_go(model, example):
    masks = rows_gone(model, "0.weight", [0, 1, 2])
    assert shrink(model, masks, example, round=4)[0].out_channels == 8
    assert shrink(model, masks, example, round=3)[0].out_channels == 6
    assert shrink(model, masks, example)[0].out_channels == 5


def test_units_are_chosen_by_group(model, example):
    kept = {"0": torch.tensor([True] * 5 + [False] * 3)}
    done = surgery(model, example=example, kept=kept)
    assert done.model[0].out_channels == 5
    assert torch.equal(done.kept["0"], kept["0"])
    assert torch.equal(done.model[0].weight, model[0].weight[:5])


def test_without_a_check_it_is_the_same_network(model, example):
    masks = rows_gone(model, "0.weight", [1])
    one, two = (shrink(model, masks, example, check=c) for c in (True, False))
    assert all(torch.equal(one.state_dict()[k], v) for k, v in two.state_dict().items())


def test_a_shrunk_network_is_shrunk_again(model, example):
    first = shrink(model, rows_gone(model, "0.weight", [1]), example)
    second = shrink(first, rows_gone(first, "0.weight", [1]), example)
    assert second[0].out_channels == 6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "shrink needs an example input, with its batch dimension"),
        ({"example": "x"}, "the example is str; give a tensor as the network takes it"),
        ({"example": torch.randn(2, 4, 8, 8)}, r"does not take the example input \[2, 4, 8, 8\]"),
        ({"example": torch.randn(2, 3, 9, 9)}, r"does not take the example input \[2, 3, 9, 9\]"),
        ({"example": (torch.randn(PICTURE), 1)}, "does not take the example input"),
        ({"example": torch.zeros(PICTURE, dtype=torch.int64)}, "does not take the example input"),
        ({"masks": {"0.weight": torch.ones(8)}}, r"0.weight \[8\] on \[8, 3, 3, 3\]"),
        ({"masks": {"9.weight": torch.ones(8)}}, "9.weight .* names no parameter"),
        ({"masks": {}, "kept": {}}, "two ways to say the same"),
        ({"kept": {"1": torch.ones(8, dtype=torch.bool)}}, "no group is called '1'"),
        ({"kept": {"0": torch.ones(8)}}, r"kept\['0'\] is torch.float32 \(8,\)"),
        ({"kept": {"0": torch.ones(7, dtype=torch.bool)}}, "it is torch.bool of"),
        ({"kept": {"0": [True] * 8}}, r"kept\['0'\] is list; it is a tensor"),
        ({"kept": {"0": torch.zeros(8, dtype=torch.bool)}}, "0 would lose all of its 8 units"),
        ({"kept": {"5": torch.arange(3) > 0}}, "5 stays whole: they are the output"),
        ({"keep": ["nothing"]}, "'nothing' matches no layer"),
    ],
)
def test_a_mistake_is_refused_in_words(model, example, given, message):
    arguments = {"example": example} | given if given else {}
    with pytest.raises(UserError, match=message):
        shrink(model, **arguments)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.gate, self.b = conv(3, 8), nn.Identity(), conv(8, 3)

    def forward(self, x):
        y = self.a(x)
        return self.b(y) if y.sum() > 0 else self.b(-y)


def test_control_flow_that_depends_on_the_data_is_refused():
    with pytest.raises(UserError, match=r"in the network depends on the data .* torch.where"):
        groups(Branching(), torch.randn(PICTURE))


def test_the_module_that_branches_is_named():
    with pytest.raises(UserError, match=r"in 1 depends on the data"):
        groups(nn.Sequential(conv(3, 3), Branching()), torch.randn(2, 3, 12, 12))


def test_a_network_without_parameters_has_no_groups():
    model, x = nn.Sequential(nn.ReLU(), nn.Flatten()), torch.randn(2, 3)
    assert len(groups(model, x)) == 0
    assert torch.equal(shrink(model, example=x)(x), model(x))


def test_a_network_on_the_device_meta_is_refused_unless_nothing_is_tried(model, example):
    empty = model.to("meta")
    with pytest.raises(UserError, match="0.weight of Sequential is on the device meta"):
        groups(empty, example)
    with pytest.raises(UserError, match="on the device meta"):
        shrink(empty, example=example)
    assert [g.units for g in groups(empty, example, check=False).free] == [8, 6]


def test_a_lazy_network_is_refused_until_it_has_sizes():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that such modules are new
        model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(UserError, match="has no size yet; run the network once"):
        groups(model, torch.randn(2, 3))
    model(torch.randn(2, 3))
    assert [g.name for g in groups(model, torch.randn(2, 3)).free] == ["0"]


def test_a_network_that_gives_nan_is_refused(model, example):
    with torch.no_grad():
        model[5].weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="gives NaN on the example"):
        groups(model, example)


def test_an_example_of_another_type_or_device_is_fitted(model, example):
    assert len(groups(model.double(), example).free) == 2
    assert len(groups(model.float(), example.half()).free) == 2


@dataclass
class Output:
    logits: Tensor


def test_outputs_in_a_dataclass_stay(net):
    model = net(lambda s, x: Output(s.b(s.a(x))), a=conv(3, 8), b=conv(8, 3))
    assert [g.name for g in groups(model, torch.randn(PICTURE)).free] == ["a"]


def test_an_output_without_tensors_is_refused(net):
    model = net(lambda s, x: (s.a(x), None)[1], a=conv(3, 8))
    with pytest.raises(UserError, match="returns NoneType, in which no tensor is found"):
        groups(model, torch.randn(PICTURE))


def test_inputs_in_a_dictionary_are_followed(net):
    model = net(lambda s, x: s.b(s.a(x["image"])), a=conv(3, 8), b=conv(8, 3))
    assert [g.name for g in groups(model.double(), ({"image": torch.randn(PICTURE)},)).free] == [
        "a"
    ]


def test_outputs_that_hardly_change_do_not_pass_for_equal(net):
    """The number of channels is in the result, which shows in its fifth digit only."""

    def fn(s, x):
        y = torch.relu(s.a(x))
        return 1.0 + 1e-4 * s.b(y) * y.shape[1]

    model = net(fn, a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    found = groups(model, torch.randn(4, 5))
    assert "knows their number or order" in found["a"].whole


def test_examples_of_one_input_serve_too(model):
    assert len(groups(model, torch.randn(1, 3, 8, 8)).free) == 2

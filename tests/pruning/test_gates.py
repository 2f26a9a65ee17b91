"""Gates: exact zeros, exact folding, and refusing what cannot be folded."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from thrifty.channels.finding import groups as find_groups
from thrifty.channels.groups import Group, Groups, Member
from thrifty.data import Data, Split
from thrifty.errors import UnknownName, UserError
from thrifty.pruning.gates import Gate, gate
from thrifty.pruning.gates.bn_finder import BNFinder
from thrifty.pruning.gates.bn_scale import BNScale
from thrifty.pruning.gates.channel_scale import ChannelScale
from thrifty.pruning.gates.group_growth import GroupGrowth, norms
from thrifty.pruning.gates.shrinkage import shrunk
from thrifty.pruning.gates.units import by_unit, by_weight
from thrifty.training.loop import train
from thrifty.training.plan import Plan


@pytest.fixture(scope="module")
def blobs() -> Data:
    """Three classes of 1x8x8 pictures, each bright in a place of its own."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % 3
        inputs = torch.randint(0, 120, (count, 1, 8, 8), generator=generator)
        for n, label in enumerate(labels):
            inputs[n, 0, 1 + 2 * int(label) : 3 + 2 * int(label), 2:6] += 100
        return Split(inputs.to(torch.uint8), labels)

    return Data("blobs", split(96), split(48), 3, (0.3,), (0.2,), shift=1, flip=True)


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4),
        nn.ReLU(), nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip


class Residual(nn.Module):
    """A stem, a block around which its input goes, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv1, self.bn1 = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn0(self.stem(x)))
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(torch.relu(x + y).mean((2, 3)))


# ---- shrinking


@given(
    st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=9),
    st.floats(2**-10, 1, width=32),
)
def test_shrinking_moves_towards_zero_and_stops_there_but_for_the_largest(values, by):
    scales = torch.tensor(values)
    out = shrunk(scales, by)
    near = scales.abs() <= by
    if bool(near.all()):
        assert int((out != 0).sum()) == int(bool((scales != 0).any()))
        assert float(out.abs().max()) == float(scales.abs().max())
    else:
        assert bool((out[near].view(torch.int32) == 0).all())
        torch.testing.assert_close(out[~near], scales[~near] - by * scales[~near].sign())


def test_shrinking_hides_no_divergence():
    assert math.isnan(float(shrunk(torch.tensor([math.nan, 1.0]), 0.1)[0]))


def useless(model: nn.Sequential, reader: int, channels: list[int]) -> dict[str, torch.Tensor]:
    """Masks that hold the columns at zero which read ``channels``."""
    mask = torch.ones_like(model[reader].weight, dtype=torch.bool)
    mask[:, channels] = False
    return {f"{reader}.weight": mask}


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("name", ["bn_scale", "channel_scale"])
def test_channels_that_nothing_reads_get_scales_of_exactly_zero(blobs, name, flat, monkeypatch):
    monkeypatch.setattr("thrifty.training.stepper.FLAT_BELOW", 10**9 if flat else 0)
    model = normed() if name == "bn_scale" else plain()
    masks = useless(model, 3 if name == "bn_scale" else 2, [1, 4])
    slim = gate(f"{name}?strength=0.02&init=0.5")
    slim.attach(model)
    train(model, blobs, Plan(epochs=20, batch=16, lr=0.1), gate=slim, masks=masks)
    scores = next(iter(slim.scores(model).values()))
    assert scores[[1, 4]].tolist() == [0.0, 0.0]
    assert int((scores > 0.1).sum()) >= 2
    if name == "channel_scale":
        slim.fold(model)
        assert bool((model[0].weight[[1, 4]].view(torch.int32) == 0).all())
        assert bool((model[0].bias[[1, 4]].view(torch.int32) == 0).all())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("form", ["proximal", "subgradient"])
def test_both_forms_minimise_the_same_whatever_the_momentum(blobs, form, momentum):
    """Of (scale - 2)^2 / 2 + strength |scale|, the minimum is at 2 - strength."""

    class Valley(ChannelScale):
        def penalty(self, model: nn.Module, progress: float) -> torch.Tensor:
            return 0.5 * (model[0].channel_gate - 2).square().sum()

    model, valley = plain(), Valley(strength=0.5, form=form, keep=["2"])
    valley.attach(model)
    masks = useless(model, 2, list(range(6)))  # nothing else moves the scales
    lr = 0.2 * (1 - momentum)
    plan = Plan(epochs=20, batch=16, lr=lr, momentum=momentum, nesterov=False)
    train(model, blobs, plan, gate=valley, masks=masks)
    found = model[0].channel_gate.detach()
    torch.testing.assert_close(found, torch.full((6,), 1.5), atol=0.02, rtol=0)


def test_the_subgradient_is_added_and_no_step_shrinks():
    model = normed()
    slim = BNScale(strength=0.25, form="subgradient", init=None)
    slim.attach(model)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -2.0, 0.0, 0.5, -0.5, 3.0]))
    model[1].weight.grad = torch.ones(6)
    slim.after_backward(model)
    assert model[1].weight.grad.tolist() == [1.25, 0.75, 1.0, 1.25, 0.75, 1.25]
    assert model[4].weight.grad.tolist() == [0.25] * 4  # it had none
    before = model[1].weight.clone()
    slim.after_step(model, 1.0, 0.0)
    assert torch.equal(model[1].weight, before)


def test_scales_that_are_frozen_by_the_user_are_not_shrunk(blobs):
    model = normed()
    model[1].weight.requires_grad_(False)
    slim = BNScale(strength=0.01, init=None)
    slim.attach(model)
    train(model, blobs, Plan(epochs=1, batch=16), gate=slim)
    assert model[1].weight.tolist() == [1.0] * 6
    assert list(slim.variables(model)) == ["4.weight"]


# ---- scales of batch normalisation


def test_only_norms_that_are_new_begin_at_init():
    model = normed()
    model[4](torch.randn(8, 4, 3, 3))  # it has statistics now
    BNScale().attach(model)
    assert model[1].weight.tolist() == [0.5] * 6
    assert model[4].weight.tolist() == [1.0] * 4
    BNScale(init=None).attach(other := normed())
    assert other[1].weight.tolist() == [1.0] * 6
    gate("bn_scale?init=none").attach(other)
    assert other[1].weight.tolist() == [1.0] * 6


def test_behind_a_sum_channels_are_worth_the_mean_of_all_scales_that_reach_them():
    model = Residual()
    groups = find_groups(model, torch.randn(2, 1, 8, 8))
    slim = BNScale(groups=groups, init=None)
    slim.attach(model)
    with torch.no_grad():
        model.bn0.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        model.bn2.weight.copy_(torch.tensor([0.0, 0.0, -1.0, 2.0]))
    scores = slim.scores(model)
    assert set(scores) == {"stem.weight", "conv1.weight", "conv2.weight"}
    assert scores["stem.weight"].tolist() == scores["conv2.weight"].tolist() == [0.5, 1, 2, 3]
    bare = BNScale(init=None).scores(model)
    assert set(bare) == {"bn0.weight", "bn1.weight", "bn2.weight"}
    assert bare["bn2.weight"].tolist() == [0, 0, 1, 2]


def test_scales_of_channels_that_stay_whole_are_not_penalised():
    model = Residual()
    groups = find_groups(model, torch.randn(2, 1, 8, 8), keep=["conv1"])
    assert set(BNScale(groups=groups).variables(model)) == {"bn0.weight", "bn2.weight"}
    assert set(BNScale(keep="bn0,bn2").variables(model)) == {"bn1.weight"}
    with pytest.raises(UserError, match=r"no batch normalisation of Residual is left.*keep="):
        BNScale(keep=["bn*"]).attach(model)


# ---- temporary scales


LAYERS = [
    (nn.Conv1d(3, 4, 3), (2, 3, 9)),
    (nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 7, 7)),
    (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 7, 7)),
    (nn.Conv2d(4, 6, 3), (4, 7, 7)),
    (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
    (nn.ConvTranspose1d(3, 4, 3), (2, 3, 9)),
    (nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
    (nn.ConvTranspose3d(2, 3, 2, bias=False), (1, 2, 3, 3, 3)),
    (nn.Linear(5, 4), (2, 3, 5)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("last", [False, True])
def test_every_kind_of_layer_folds(layer, shape, last):
    torch.manual_seed(0)
    inputs = torch.randn(shape)
    model = nn.ModuleDict({"one": layer, "last": nn.Linear(2, 2)})
    if last and inputs.dim() == 4:
        model.to(memory_format=torch.channels_last)
    names = list(model.state_dict())
    before = model["one"](inputs)
    slim = ChannelScale()
    slim.attach(model)
    assert torch.equal(model["one"](inputs), before)
    (variable,) = slim.variables(model).values()
    with torch.no_grad():
        variable.copy_(torch.linspace(-1, 2, len(variable)))
    gated = model["one"](inputs)
    assert not torch.allclose(gated, before)
    slim.fold(model)
    torch.testing.assert_close(model["one"](inputs), gated)
    assert list(model.state_dict()) == names


def test_a_layer_that_is_used_twice_has_one_scale_and_folds():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.tanh(self.a(torch.tanh(self.a(x)))))

    model, inputs = Twice(), torch.randn(3, 4)
    slim = ChannelScale(init=0.5)
    slim.attach(model)
    gated = model(inputs)
    assert list(slim.variables(model)) == ["a.channel_gate"]
    slim.fold(model)
    torch.testing.assert_close(model(inputs), gated)


@pytest.mark.parametrize("training", [True, False])
def test_layers_whose_weights_other_code_reads_have_no_score_and_stay(training):
    model = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True).train(training)
    slim, inputs = ChannelScale(init=0.5), torch.randn(2, 5, 8)
    slim.attach(model)
    before = model.self_attn.out_proj.weight.clone()
    with torch.no_grad():
        gated = model(inputs)
        other = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True).train(training)
        slim.attach(other)
        other.load_state_dict(model.state_dict())
        for each in (model, other):  # it is known after loading, too
            assert list(slim.scores(each)) == ["linear1.weight"]
            slim.fold(each)
            assert torch.equal(each.self_attn.out_proj.weight, before)
            torch.testing.assert_close(each(inputs), gated)


def test_the_finder_has_no_score_for_what_is_never_called():
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(2, 2, 1) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.b(nn.functional.conv2d(x, self.a.weight)))

    model, finder = Reads(), BNFinder()
    finder.attach(model)
    model(torch.randn(2, 2, 3, 3))
    assert list(finder.scores(model)) == ["b.weight"]


def test_layers_that_share_a_weight_have_no_scale():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    slim = ChannelScale()
    slim.attach(model)
    assert list(slim.variables(model)) == ["2.channel_gate"]


def test_scales_keep_the_precision_of_what_they_scale():
    model = plain()
    ChannelScale().attach(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model[0](torch.randn(2, 1, 8, 8)).dtype == torch.bfloat16


def test_the_output_of_the_network_is_not_scaled_and_groups_know_which_it_is():
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out, self.hidden = nn.Linear(6, 3), nn.Linear(5, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.relu(self.hidden(x)))

    model = Backwards()
    groups = find_groups(model, torch.randn(2, 5))
    ChannelScale(groups=groups).attach(model)
    assert list(ChannelScale().scores(model)) == ["hidden.weight"]


# ---- norms that are added to find channels


def test_the_finder_gives_back_every_bit_of_the_network(blobs):
    model = plain()
    model.register_buffer("seen", torch.tensor([3.0]))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    finder = BNFinder(strength=0.01)
    finder.attach(model)
    train(model, blobs, Plan(epochs=3, batch=16), gate=finder)
    assert not torch.equal(model[2].weight, before["2.weight"])
    scores = finder.scores(model)
    assert {k: len(v) for k, v in scores.items()} == {"0.weight": 6, "2.weight": 4}
    finder.fold(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


# ---- growing regularisation of groups


def two_layers() -> tuple[nn.Sequential, Groups]:
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]))
        model[2].weight.zero_()
        model[2].weight[:, 2] = 2.0  # unit 1, of which columns 2 and 3 are read
    members = (
        Member("0.weight", 0, torch.tensor([0, 1, 2]), "out"),
        Member("2.weight", 1, torch.tensor([0, 0, 1, 1, -1, 2]), "in"),
        Member("gone.bias", 0, torch.tensor([0, 1, 2]), "shift"),
    )
    return model, Groups((Group("0", 3, members, None, ()),))


def test_a_unit_is_pulled_the_more_the_smaller_it_is_in_its_group():
    model, groups = two_layers()
    growth = GroupGrowth(groups, strength=0.5)
    growth.attach(model)
    sizes = norms(groups["0"], growth.variables(model))
    torch.testing.assert_close(sizes**2, torch.tensor([12.5, 4.5, 0.0]))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    growth.after_backward(model)
    share = 1 - math.sqrt(4.5 / 12.5)
    middle = 0.5 * 2 ** (4 * share)
    expected = torch.tensor([[1 + 0.5 * 3, 1 + 0.5 * 4], [1 + middle, 1.0], [1.0, 1.0]])
    torch.testing.assert_close(model[0].weight.grad, expected)
    torch.testing.assert_close(model[2].weight.grad[:, 2], torch.full((2,), 1 + middle * 2))
    assert model[2].weight.grad[:, [0, 1, 3, 4, 5]].eq(1).all()
    with torch.no_grad():
        model[0].weight[2, 0] = 1e-6
    model[0].weight.grad = None
    growth.after_backward(model)
    assert float(model[0].weight.grad[2, 0]) == pytest.approx(0.5 * 16 * 1e-6, rel=1e-4)


def test_units_of_equal_size_are_pulled_like_plain_weight_decay():
    model, groups = two_layers()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.0)
    nn.init.ones_(model[0].weight)
    GroupGrowth(groups, strength=0.5).after_backward(model)
    assert model[0].weight.grad.eq(0.5).all()


def test_norms_of_groups_are_told_by_row_and_compare_across_groups():
    model, groups = two_layers()
    scores = GroupGrowth(groups).scores(model)
    torch.testing.assert_close(scores["0.weight"], torch.tensor([12.5, 4.5, 0.0]) / (17 / 3))


def test_small_units_die_and_the_largest_do_not(blobs):
    model = normed()
    groups = find_groups(model, torch.randn(2, 1, 8, 8))
    with torch.no_grad():
        model[0].weight[:2] *= 0.01
        model[1].weight[:2] *= 0.01
        model[3].weight[:, :2] *= 0.01
    growth = GroupGrowth(groups, strength=0.02)
    growth.attach(model)
    train(model, blobs, Plan(epochs=15, batch=16, lr=0.1), gate=growth)
    sizes = norms(groups["0"], growth.variables(model))
    assert float(sizes[:2].max()) < 0.05 * float(sizes.max())


def test_groups_of_another_network_are_refused():
    _, groups = two_layers()
    with pytest.raises(UserError, match=r"3 channels in dimension 0 of 0\.weight.*Sequential"):
        GroupGrowth(groups).attach(plain())
    with pytest.raises(UserError, match="nothing to regularise"):
        GroupGrowth(Groups(())).attach(plain())


# ---- units


def test_scores_of_units_are_means_over_channels_and_go_back_to_rows():
    members = (
        Member("a.weight", 0, torch.tensor([0, 0, 1, -1]), "out"),
        Member("n.weight", 0, torch.tensor([0, 0, 1, -1]), "scale"),
        Member("b.weight", 1, torch.tensor([0, 0, 1, -1]), "in"),
    )
    groups = Groups((Group("a", 2, members, None, ()), Group("whole", 2, members, "why", ())))
    scores = {"a.weight": torch.tensor([1.0, 3.0, 5.0, math.inf]), "b.weight": torch.ones(4)}
    found = by_unit(groups, scores)
    assert {k: v.tolist() for k, v in found.items()} == {"a": [2.0, 5.0]}
    both = by_unit(groups, scores | {"n.weight": torch.tensor([0.0, 0.0, 1.0, 9.0])})
    assert both["a"].tolist() == [1.0, 3.0]
    assert by_weight(groups, found)["a.weight"].tolist() == [2.0, 2.0, 5.0, math.inf]
    assert by_unit(groups, {}) == {}


# ---- refusals


class OwnForward(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).square()


def with_first(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, nn.Linear(4, 4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("make", "model", "message"),
    [
        (lambda: BNScale(), plain, "bn_scale needs batch normalisation.*channel_scale"),
        (lambda: ChannelScale(), normed, "1 is a BatchNorm2d.*use the gate bn_scale"),
        (lambda: BNFinder(), normed, "1 is a BatchNorm2d.*use bn_scale"),
        (lambda: ChannelScale(keep=["0", "2"]), plain, "no layer to gate.*keep="),
        (lambda: ChannelScale(keep=["conv9"]), plain, "'conv9' matches no"),
        (lambda: BNFinder(), lambda: with_first(nn.Linear(3, 4)), "no layer to gate.*Conv2d"),
        (lambda: ChannelScale(), lambda: with_first(OwnForward(3, 4)), "0 is a OwnForward"),
        (lambda: ChannelScale(), lambda: with_first(nn.LazyLinear(4)), "0 has no shape yet"),
        (
            lambda: ChannelScale(),
            lambda: with_first(prune.random_unstructured(nn.Linear(3, 4), "weight", 0.5)),
            "weight of 0 is computed at every step",
        ),
        (
            lambda: ChannelScale(),
            lambda: with_first(parametrizations.weight_norm(nn.Linear(3, 4))),
            "weight of 0 is computed at every step",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_network_that_does_not_fit_is_refused_and_not_touched(make, model, message):
    network = model()
    names = list(network.state_dict())
    with pytest.raises(UserError, match=message):
        make().attach(network)
    assert list(network.state_dict()) == names
    assert not any(
        m._forward_hooks for m in network.modules() if not hasattr(m, "_infer_parameters")
    )


@pytest.mark.parametrize("kind", [ChannelScale, BNFinder])
def test_a_gate_is_attached_once_and_before_it_is_used(kind):
    model, found = plain(), kind()
    for use in (found.variables, found.scores, found.fold):
        with pytest.raises(UserError, match=r"not attached to the Sequential; call attach"):
            use(model)
    found.attach(model)
    with pytest.raises(UserError, match="already"):
        found.attach(model)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bn_scale?strength=-1", "strength=-1; give 0 or more"),
        ("bn_scale?strength=much", "strength='much'; give a number"),
        ("bn_scale?strength=nan", "strength='nan'; give a number"),
        ("bn_scale?form=proximate", "'proximate'; did you mean proximal"),
        ("channel_scale?init=0", "init=0, which closes all"),
        ("channel_scale?init=true", "init=True; give a number"),
        ("bn_finder?strenght=1", "no option 'strenght'; did you mean strength"),
        ("group_growth", "needs groups"),
        ("bn_scal", "no gate is called 'bn_scal'; did you mean bn_scale"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused(spec, message):
    with pytest.raises((UserError, UnknownName), match=message):
        gate(spec)


# ---- what training does for any gate


class Pull(Gate):
    """A gate with a penalty in the loss, which also writes to weights that masks hold."""

    def attach(self, model: nn.Module) -> None:
        model[0].register_parameter("pull", nn.Parameter(torch.ones(3, 3)))

    def variables(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return {"0.pull": model[0].pull}

    def penalty(self, model: nn.Module, progress: float) -> torch.Tensor:
        return 0.5 * (model[0].pull - 2).square().sum()

    @torch.no_grad()
    def after_step(self, model: nn.Module, lr: float, progress: float) -> None:
        model[5].weight.add_(1e-3)

    def scores(self, model: nn.Module) -> dict[str, torch.Tensor]:
        return {}

    def fold(self, model: nn.Module) -> None:
        del model[0].pull


@pytest.mark.parametrize("flat", [True, False])
def test_a_penalty_is_minimised_without_weight_decay_and_held_zeros_stay(blobs, flat, monkeypatch):
    monkeypatch.setattr("thrifty.training.stepper.FLAT_BELOW", 10**9 if flat else 0)
    model, pull = plain(), Pull()
    pull.attach(model)
    masks = useless(model, 5, [0, 7])
    plan = Plan(epochs=20, batch=16, lr=0.05, weight_decay=0.1)
    train(model, blobs, plan, gate=pull, masks=masks)
    torch.testing.assert_close(model[0].pull.detach(), torch.full((3, 3), 2.0), atol=0.01, rtol=0)
    assert bool((model[5].weight[:, [0, 7]].view(torch.int32) == 0).all())


@pytest.mark.parametrize("name", ["bn_scale", "channel_scale", "bn_finder"])
def test_weight_decay_leaves_scales_alone(blobs, name):
    """Nothing reads the second convolution, so nothing but weight decay could move its scales."""
    model = normed() if name == "bn_scale" else plain()
    slim = gate(f"{name}?strength=0&init=0.5")
    slim.attach(model)
    last = len(model) - 1
    masks = useless(model, last, list(range(64)))
    train(model, blobs, Plan(epochs=2, batch=16, weight_decay=0.5), gate=slim, masks=masks)
    assert [*slim.variables(model).values()][1].tolist() == [0.5] * 4

"""Variational dropout: the divergence, the noise, and what is left of a network afterwards."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional
from torch.nn.utils import parametrizations

from thrifty.data import load_data
from thrifty.errors import UserError
from thrifty.pruning.gates import gate
from thrifty.pruning.gates.forwards import computed
from thrifty.pruning.gates.layouts import noise_like
from thrifty.pruning.gates.posterior import divergence, kl, log_alpha, noisy
from thrifty.pruning.gates.variational import LOWEST, _joined
from thrifty.training.loop import train
from thrifty.training.plan import Plan

# ---- the noise


LAYERS = [
    nn.Linear(6, 5),
    nn.Linear(6, 5, bias=False),
    nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2),
    nn.Conv2d(3, 4, 3, padding="same", dilation=2),
    nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=(2, 0), padding_mode="circular"),
    nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4, bias=False),
    nn.Conv3d(2, 3, 2, padding=1),
]


def inputs_of(layer: nn.Module, count: int) -> Tensor:
    torch.manual_seed(1)
    if isinstance(layer, nn.Linear):
        return torch.randn(count, layer.in_features)
    return torch.randn(count, layer.in_channels, *[5] * len(layer.kernel_size))


def gated(layer: nn.Module, spec: str = "variational?init=-1") -> tuple[object, nn.Sequential]:
    """The layer alone in a network, with noise of about half its weights' size."""
    model = nn.Sequential(copy.deepcopy(layer))
    found = gate(spec, inputs=100, epochs=25)
    found.attach(model)
    with torch.no_grad():
        torch.manual_seed(2)
        learnt = model[0].weight_gate.log_sigma_square
        learnt.copy_(torch.randn_like(learnt) - 1)
    return found, model


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_outputs_have_the_mean_and_variance_of_those_with_drawn_weights(layer):
    count = 20_000
    _, model = gated(layer)
    one = inputs_of(layer, 1)
    torch.manual_seed(3)
    with torch.no_grad():
        ours = model.train()(one.expand(count, *one.shape[1:]))
        spread = (0.5 * model[0].weight_gate.log_sigma_square).exp()

        def drawn(noise: Tensor) -> Tensor:
            weight = layer.weight + spread * noise
            values = {"weight": weight} | ({"bias": layer.bias} if layer.bias is not None else {})
            return torch.func.functional_call(layer, values, (one,))[0]

        theirs = vmap(drawn, chunk_size=500)(torch.randn(count, *layer.weight.shape))
    error = (theirs.var(0) * 2 / count).sqrt()  # of a difference of two means
    assert float(((ours.mean(0) - theirs.mean(0)) / error).abs().max()) < 5
    ratio = ours.var(0) / theirs.var(0)
    assert float((ratio - 1).abs().max()) < 5 * 2 / math.sqrt(count)
    assert float(ours.var(0).min()) > 0


def test_noise_is_drawn_anew_for_every_output_of_every_input():
    _, model = gated(nn.Conv2d(1, 2, 3, padding=1))
    same = torch.ones(64, 1, 6, 6).contiguous(memory_format=torch.channels_last)
    drawn = model.train()(same).detach()[:, :, 2:4, 2:4].reshape(64, -1)
    related = torch.corrcoef(drawn.T) - torch.eye(8)
    assert float(related.abs().max()) < 0.6
    assert len(drawn.unique()) == drawn.numel()


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("channels", [1, 4])
def test_everything_lies_in_memory_as_the_outputs_of_the_plain_layer_do(channels, order):
    """Mixed layouts are three times as slow, and one input channel tells no layout by itself."""
    layer = nn.Conv2d(channels, 4, 3)
    if order == "before":
        layer.to(memory_format=torch.channels_last)
    _, model = gated(layer)
    model.to(memory_format=torch.channels_last)
    inputs = torch.randn(3, channels, 8, 8).contiguous(memory_format=torch.channels_last)
    assert model.train()(inputs).stride() == (144, 1, 24, 4)
    assert model.eval()(inputs).stride() == (144, 1, 24, 4)
    seen = []

    def watched(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = computed(model[0], x, weight, bias)
        seen.append(out.stride())
        return out

    theta, spread = model[0].weight, model[0].weight_gate.log_sigma_square
    noisy(watched, inputs, theta, spread.exp(), None)
    assert seen == [(144, 1, 24, 4)] * 2
    assert noise_like(torch.empty(3, 4, 6, 6).to(memory_format=torch.channels_last)).stride() == (
        144, 1, 24, 4,
    )  # fmt: skip


def test_the_divergence_of_many_layers_is_the_sum_over_all():
    torch.manual_seed(0)
    pairs = [(torch.randn(n, 3), torch.randn(n, 3) - 4) for n in (1, 50, 2, 3, 90, 1)]
    for least in (1, 100, 10**6):
        joined = list(_joined(pairs, least))
        assert sum(t.numel() for t, _ in joined) == 3 * 147
        total = torch.stack([divergence(*pair).double() for pair in joined]).sum()
        torch.testing.assert_close(total, sum(divergence(*pair).double() for pair in pairs))


# ---- evaluation and folding


@pytest.mark.parametrize("preset", ["elbo", "zoo"])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_evaluation_computes_with_the_clipped_weights_and_folding_writes_them(layer, preset):
    found, model = gated(layer, f"variational?preset={preset}&threshold=1.5")
    inputs, own = inputs_of(layer, 4), model[0]
    alpha = own.weight_gate.log_sigma_square - own.weight.square().log()
    clipped = torch.where(alpha >= 1.5, 0.0, own.weight)
    assert 0 < int((clipped == 0).sum()) < clipped.numel()
    by_hand = copy.deepcopy(layer)
    by_hand.weight.data.copy_(clipped)
    torch.testing.assert_close(model.eval()(inputs), by_hand(inputs), rtol=0, atol=0)
    keep = found.scores(model)["0.weight"] > found.cutoff(1.5)
    assert torch.equal(keep, clipped != 0)
    before = model(inputs)
    found.fold(model)
    assert torch.equal(model[0].weight, clipped)
    assert torch.equal(model(inputs), before)
    assert torch.equal(model.train()(inputs), before)


def test_weights_of_zero_have_the_lowest_score_whatever_their_noise():
    found, model = gated(nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight[0] = 0.0
        model[0].weight[1] = 1e-30
        model[0].weight_gate.log_sigma_square[0] = -60.0
        model[0].weight_gate.log_sigma_square[2] = 60.0
    scores = found.scores(model)["0.weight"]
    assert bool((scores[0] == LOWEST).all())
    assert float(scores[1:].min()) > LOWEST
    assert float(scores[1:].max()) < -LOWEST


def test_layers_whose_weight_is_only_read_keep_it_and_are_neither_scored_nor_pulled():
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.called, self.read = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(self.called(x), self.read.weight)

    model = Reader()
    found = gate("variational?init=30", inputs=10)
    found.attach(model)
    before = model.read.weight.detach().clone()
    model(torch.randn(2, 6)).sum().backward()
    found.penalty(model, 1.0).backward()
    assert model.read.weight_gate.log_sigma_square.grad is None
    assert set(found.scores(model)) == {"called.weight"}
    found.fold(model)
    assert torch.equal(model.read.weight, before)
    assert not bool(model.called.weight.any())


def test_attention_is_left_out_and_fused_attention_does_not_go_past_the_gate():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    found = gate("variational?init=1", inputs=10)
    found.attach(model)
    assert {n.partition(".")[0] for n in found.variables(model)} == {"linear1", "linear2"}
    inputs = torch.randn(2, 5, 8)
    with torch.no_grad():
        alone = model.eval()(inputs)
    torch.testing.assert_close(alone, model(inputs))
    found.fold(model)
    torch.testing.assert_close(model(inputs), alone)
    assert not bool(model.linear1.weight.all())


# ---- presets


def test_the_bound_weighs_the_divergence_by_one_over_the_inputs_once_it_is_warm():
    found, model = gated(nn.Linear(6, 5), "variational?warmup=0.4&strength=2")
    own = model[0]
    whole = kl(log_alpha(own.weight, own.weight_gate.log_sigma_square)).sum()
    for progress, share in ((0.4, 1.0), (1.0, 1.0), (0.25, 0.5)):
        torch.testing.assert_close(found.penalty(model, progress), 2 * share * whole / 100)
    assert found.penalty(model, 0.1) is None
    assert set(found.variables(model)) == {"0.weight_gate.log_sigma_square"}


def test_the_zoo_steps_up_by_the_epoch_decays_the_noise_and_counts_biases_of_convolutions():
    found, model = gated(nn.Conv2d(3, 4, 3), "variational?preset=zoo")
    own = model[0]
    parts = own.weight_gate
    assert set(parts._parameters) == {"log_sigma_square", "log_sigma_square_bias"}
    whole = sum(
        kl(log_alpha(*pair, 8.0)).sum()
        for pair in (
            (own.weight, parts.log_sigma_square),
            (own.bias, parts.log_sigma_square_bias),
        )
    )
    steps = 7
    for epoch, step in ((1, 0), (1, 6), (2, 0), (24, 6), (24, 0)):
        progress = (epoch * steps + step) / (steps * 25)
        torch.testing.assert_close(found.penalty(model, progress), 0.0004 * epoch * whole)
    assert found.penalty(model, 0.0) is None
    assert found.penalty(model, 6 / (steps * 25)) is None
    assert found.variables(model) == {}


@pytest.mark.parametrize(("layer", "limit"), [(nn.Conv2d(3, 4, 3), 8.0), (nn.Linear(6, 5), 10.0)])
def test_the_zoo_clips_log_alpha_in_the_noise_and_in_the_divergence(layer, limit):
    found, model = gated(layer, "variational?preset=zoo")
    own = model[0]
    with torch.no_grad():
        own.weight.fill_(0.01)
        own.weight_gate.log_sigma_square.fill_(20.0)
        if isinstance(layer, nn.Conv2d):
            own.weight_gate.log_sigma_square_bias.fill_(-60.0)
    torch.manual_seed(0)
    drawn = model.train()(torch.ones(4000, *inputs_of(layer, 1).shape[1:])).detach()
    inside = drawn if drawn.dim() == 2 else drawn[:, :, 1:-1, 1:-1]
    fan = own.weight[0].numel()
    deviation = math.sqrt(fan * math.exp(limit) * 0.01**2)
    assert float(inside.std(0).mean()) == pytest.approx(deviation, rel=0.05)
    pull = torch.autograd.grad(found.penalty(model, 0.5), own.weight_gate.log_sigma_square)[0]
    assert not bool(pull.any())


# ---- training


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_training_ends_sparse_right_and_ready_to_fold(optimizer):
    digits = load_data("digits?train=600&test=200")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    found = gate("variational?strength=0.3", inputs=600)
    found.attach(model)
    lr = 0.05 if optimizer == "sgd" else 0.01
    plan = Plan(epochs=60, batch=50, optimizer=optimizer, lr=lr, weight_decay=0)
    train(model, digits, plan, gate=found)
    found.fold(model)
    zeros = sum(int((m.weight == 0).sum()) for m in model if isinstance(m, nn.Linear))
    assert zeros > 0.5 * (64 * 32 + 32 * 10)
    outputs = model(digits.prepare(digits.test.inputs))
    assert float((outputs.argmax(1) == digits.test.labels).float().mean()) > 0.75


def test_it_trains_under_autocast():
    found, model = gated(nn.Conv2d(3, 4, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model.train()(inputs_of(model[0], 2))
    assert out.dtype == torch.bfloat16
    (out.float().square().mean() + found.penalty(model, 1.0)).backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())


# ---- what is refused


def test_a_gate_that_diverged_names_the_layer_and_cuts_nothing():
    found, model = gated(nn.Linear(6, 5))
    with torch.no_grad():
        model[0].weight_gate.log_sigma_square[1, 2] = math.nan
    before = model[0].weight.detach().clone()
    for call in (found.scores, found.fold):
        with pytest.raises(UserError, match=r"1 of 30 values of log sigma\^2 of 0 are NaN"):
            call(model)
    assert torch.equal(model[0].weight, before)
    pickle.dumps(model)


def test_the_bound_is_refused_without_the_number_of_inputs_and_leaves_the_model_alone():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UserError, match="give inputs="):
        gate("variational").attach(model)
    assert list(model.state_dict()) == ["0.weight", "0.bias"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("variational?preset=elbow", "did you mean elbo"),
        ("variational?strength=-1", "strength=-1"),
        ("variational?threshold=nan", "threshold='nan'"),
        ("variational?threshold=100", "a log alpha that no weight reaches"),
        ("variational?init=-100", "init=-100"),
        ("variational?inputs=0", "inputs=0"),
        ("variational?warmup=x", "warmup='x'"),
        ("variational?warmup=2", "warmup=2"),
        ("variational?epochs=-1", "epochs=-1"),
    ],
)
def test_options_that_mean_nothing_are_refused(spec, said):
    with pytest.raises(UserError, match=said):
        gate(spec)


def test_networks_without_a_layer_to_gate_are_refused_with_what_it_takes():
    found = gate("variational", inputs=10)
    shared = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    shared[1].weight = shared[0].weight
    for model in (nn.Sequential(nn.ReLU()), shared, nn.ConvTranspose2d(2, 2, 3)):
        with pytest.raises(UserError, match="Conv1d, Conv2d, Conv3d, Linear layers that share no"):
            found.attach(model)
    with pytest.raises(UserError, match="leaves none"):
        gate("variational?keep=*", inputs=10).attach(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(UserError, match="remove that first"):
        found.attach(nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3))))
    with pytest.raises(UserError, match="run the network once"):
        found.attach(nn.Sequential(nn.LazyLinear(3)))


def test_a_second_gate_is_refused_and_one_that_is_not_there():
    found, model = gated(nn.Linear(3, 3))
    with pytest.raises(UserError, match="fold the gate that is attached"):
        gate("str").attach(model)
    with pytest.raises(UserError, match="not attached"):
        found.scores(nn.Linear(3, 3))


def test_layers_that_are_kept_compute_as_before():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    found = gate("variational?init=10&keep=0.*", inputs=10)
    found.attach(model)
    assert set(found.variables(model)) == {"1.weight_gate.log_sigma_square"}
    found.fold(model)
    assert bool(model[0].weight.all())
    assert not bool(model[1].weight.any())

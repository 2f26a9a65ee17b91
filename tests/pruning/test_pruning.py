"""A cut removes exactly what was asked, nests inside earlier cuts, and says what it cannot do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from thrifty.errors import UserError
from thrifty.pruning import Budget, Cut, cut, prunable, prune
from thrifty.pruning.evidence import gather


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 20), nn.ReLU(), nn.Linear(20, 5)
    )


@given(sparsity=st.floats(0, 0.999), seed=st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_the_sparsity_is_exactly_what_was_asked(sparsity, seed):
    model = network(seed)
    total = sum(p.numel() for p in prunable(model).values())
    found = prune(model, "magnitude", Budget(sparsity))
    gone = sum(int((p == 0).sum()) for p in prunable(model).values())
    assert gone == round(sparsity * total) == total - found.kept


@pytest.mark.parametrize("allocation", ["lamp", "global", "uniform", "uniform_plus", "erk"])
def test_levels_nest_even_when_the_survivors_have_changed(allocation):
    model, before = network(), None
    for level in (0.3, 0.5, 0.8, 0.9, 0.99):
        found = cut(model, Cut(allocation=allocation), Budget(level), within=before)
        assert before is None or found.within(before)
        assert found.sparsity == pytest.approx(level, abs=1e-3)
        before = found
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in found:
                    p.copy_(torch.randn_like(p) * found[name])


def test_a_cut_changes_nothing_and_prune_does():
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = cut(model, "magnitude", 0.5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    prune(model, "magnitude", 0.5)
    assert all(bool((p[~found[n]] == 0).all()) for n, p in prunable(model).items())


def test_random_is_decided_by_the_seed_and_nests():
    model = network()
    a, b, c = (cut(model, "random", 0.5, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert any(not torch.equal(a[n], c[n]) for n in a)
    assert cut(model, "random", 0.9, seed=1).within(a)


def test_saliency_ranks_by_gradient_times_weight_and_leaves_the_model_as_it_was():
    model = network().train()
    data = [(torch.randn(6, 1, 8, 8), torch.randint(0, 5, (6,))) for _ in range(2)]
    found = cut(model, "saliency", 0.5, data=data)
    assert model.training and all(p.grad is None for p in model.parameters())
    layers = gather(model, ("grad",), data)
    inputs, labels = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
    loss = nn.functional.cross_entropy(model(inputs), labels)
    expected = torch.autograd.grad(loss, list(prunable(model).values()))
    for layer, gradient in zip(layers.values(), expected, strict=True):
        torch.testing.assert_close(layer.grad, gradient)
    name = "3.weight"
    score = (layers[name].grad * layers[name].weight).abs()
    assert score[found[name]].min() >= score[~found[name]].max()


def test_a_criterion_that_needs_data_says_so():
    with pytest.raises(UserError, match="needs gradients, so it needs data"):
        cut(network(), "saliency", 0.5)


def test_whole_filters_go_at_filter_granularity():
    found = cut(network(), Cut(granularity="filter", allocation="uniform"), 0.5)
    for mask in found.values():
        rows = mask.flatten(1)
        assert bool((rows.all(1) | ~rows.any(1)).all())
    assert [int(m.flatten(1).any(1).sum()) for m in found.values()] == [4, 10, 3]


def test_layers_to_keep_have_no_mask():
    found = cut(network(), Cut(keep=("0",)), 0.9)
    assert list(found) == ["3.weight", "5.weight"]


def test_a_budget_of_parameters_counts_all_of_them():
    model = network()
    prune(model, "magnitude", Budget(1000, of="params"))
    biases = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    weights = sum(int((p != 0).sum()) for p in prunable(model).values())
    assert weights + biases == 1000


def test_a_threshold_keeps_what_reaches_it():
    model = network()
    found = cut(model, Cut(), Budget(0.05, of="threshold"))
    for name, p in prunable(model).items():
        assert torch.equal(found[name], p.abs() >= 0.05)


def test_shared_weights_are_pruned_once_and_embeddings_not():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.first = nn.Linear(4, 10, bias=False)
            self.second = nn.Linear(4, 10, bias=False)
            self.second.weight = self.first.weight
            self.attention = nn.MultiheadAttention(4, 2)
            self.rnn = nn.GRU(4, 3)

    assert list(prunable(Tied())) == [
        "first.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "rnn.weight_ih_l0",
        "rnn.weight_hh_l0",
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: prune(m, "magnitud"), "no method is called 'magnitud'; did you mean magnitude"),
        (lambda m: prune(m, "magnitude", 90), "90 % is written 0.9"),
        (lambda m: prune(m, "magnitude", 1), "1 would leave no weight"),
        (lambda m: prune(m, criterion="taylr"), "no criterion is called 'taylr'"),
        (lambda m: prune(m, granularity="filtre"), "did you mean filter"),
        (lambda m: prune(m, keep=["con*"]), "matches no prunable layer"),
        (lambda m: prune(m, keep=["*"]), "nothing is left to prune"),
        (
            lambda m: prune(m, "magnitude", Budget(30, of="params")),
            "a budget of 30 parameters cannot be met",
        ),
        (lambda m: prune(m, "magnitude", 0.9999), "highest sparsity of this network"),
        (lambda m: prune(nn.ReLU()), "has nothing to prune"),
    ],
)
def test_what_cannot_be_done_is_explained(call, message):
    with pytest.raises(UserError, match=message):
        call(network())


def test_a_nan_weight_is_named():
    model = network()
    with torch.no_grad():
        model[3].weight[2, 3] = float("nan")
    with pytest.raises(UserError, match=r"3.weight cannot be scored: 1 of its weights are NaN"):
        prune(model)

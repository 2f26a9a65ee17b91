"""Every allocation gives exact counts, keeps every layer alive, and stays inside what lives."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thrifty.errors import UserError
from thrifty.pruning.allocation import ALLOCATIONS, Budget, alive, allocate, lamp_scores


def some_scores(seed: int, shapes, dead: float = 0.0):
    generator = torch.Generator().manual_seed(seed)
    scores = {}
    for i, shape in enumerate(shapes):
        s = torch.rand(shape, generator=generator) * 10 ** (2 - i)
        if dead:
            gone = torch.rand(shape, generator=generator) < dead
            gone.view(-1)[0] = False
            s = s.masked_fill(gone, -math.inf)
        scores[f"layer{i}.weight"] = s
    return scores


shapes = st.lists(
    st.tuples(st.integers(1, 12), st.integers(1, 12))
    | st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3), st.just(3)),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("how", sorted(ALLOCATIONS))
@given(
    shapes=shapes, share=st.floats(0, 1), dead=st.sampled_from([0.0, 0.4]), seed=st.integers(0, 9)
)
@settings(deadline=None, max_examples=60)
def test_counts_add_up_and_no_layer_dies(how, shapes, share, dead, seed):
    scores = some_scores(seed, shapes, dead)
    live = alive(scores)
    keep = max(len(scores), round(share * sum(live.values())))
    counts = allocate(scores, keep, how)
    assert sum(counts.values()) == keep
    assert all(1 <= counts[n] <= live[n] for n in scores)


@pytest.mark.parametrize("how", sorted(ALLOCATIONS))
def test_equal_scores_and_zero_layers_are_cut_exactly(how):
    scores = {"a": torch.ones(10, 10), "b": torch.zeros(5, 20), "c": torch.zeros(3, 1)}
    for keep in (3, 20, 102, 203):
        assert sum(allocate(scores, keep, how).values()) == keep


def test_lamp_is_its_equation():
    s = torch.tensor([3.0, 1.0, 2.0])
    expected = torch.tensor([9 / 9, 1 / 14, 4 / 13])
    torch.testing.assert_close(lamp_scores(s), expected)


def test_lamp_does_not_overflow_or_underflow():
    for scale in (1e-30, 1e30):
        torch.testing.assert_close(
            lamp_scores(torch.tensor([3.0, 1.0]) * scale), torch.tensor([1.0, 0.1])
        )


def test_global_alone_empties_a_layer_of_small_weights_and_the_default_does_not():
    """The third convolution of the zoo networks: 96 weights of mean size 0.17 among larger ones.

    Cut bare at 80 % it loses all weights, and accuracy falls to chance (10.3 %).
    """
    generator = torch.Generator().manual_seed(0)
    sizes = {
        "conv1": (200, 0.6),
        "conv2": (1200, 0.5),
        "conv3": (96, 0.02),
        "fc1": (720, 0.6),
        "fc2": (200, 0.9),
    }
    scores = {
        n: torch.rand(1, count, generator=generator) * 2 * mean
        for n, (count, mean) in sizes.items()
    }
    keep = round(0.2 * sum(s.numel() for s in scores.values()))
    assert allocate(scores, keep, "global?floor=0")["conv3"] == 1
    assert allocate(scores, keep, "global?floor=0.05")["conv3"] >= 4
    assert allocate(scores, keep, "lamp")["conv3"] >= 20


def test_erk_keeps_small_layers_denser_and_is_capped_at_whole():
    scores = {"small": torch.rand(4, 2, 3, 3), "large": torch.rand(64, 64, 3, 3)}
    counts = allocate(scores, round(0.2 * sum(s.numel() for s in scores.values())), "erk")
    assert counts["small"] == 72
    assert counts["large"] == round(0.2 * (72 + 36864)) - 72


def test_uniform_plus_spares_the_first_layer_and_the_last():
    scores = {n: torch.rand(10, 100) for n in ("first", "a", "b", "last")}
    counts = allocate(scores, 1400, "uniform_plus")
    assert counts == {"first": 1000, "a": 100, "b": 100, "last": 200}


def test_explicit_takes_the_sparsity_of_the_last_pattern_that_matches():
    scores = {
        "conv1.weight": torch.rand(10, 10),
        "fc1.weight": torch.rand(10, 10),
        "fc2.weight": torch.rand(10, 10),
    }
    counts = allocate(scores, 0, "explicit", {"fc*": 0.9, "fc2": 0.5})
    assert counts == {"conv1.weight": 100, "fc1.weight": 10, "fc2.weight": 50}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: allocate(s, 10, "lamb"), "did you mean lamp"),
        (lambda s: allocate(s, 10, "global?flor=1"), "has no option 'flor'.*floor"),
        (lambda s: allocate(s, 1, "lamp"), "each of which keeps at least one.*highest sparsity"),
        (lambda s: allocate(s, 10, "explicit"), "needs layers"),
        (lambda s: allocate(s, 10, "explicit", {"nope*": 0.5}), "matches no prunable layer"),
        (lambda s: allocate(s, 10, "explicit", {"a": 1.5}), "0 <= sparsity < 1"),
        (
            lambda s: allocate({"a": torch.full((5,), -math.inf), "b": torch.rand(5)}, 8, "global"),
            "5 of 10 are pruned",
        ),
    ],
)
def test_what_cannot_be_allocated_is_explained(call, message):
    with pytest.raises(UserError, match=message):
        call({"a": torch.rand(5, 5), "b": torch.rand(5, 5)})


@pytest.mark.parametrize(
    ("amount", "of", "message"),
    [
        (90, "sparsity", "90 % is written 0.9"),
        (1, "sparsity", "1 would leave no weight"),
        (-0.1, "sparsity", "0 <= sparsity < 1"),
        (float("nan"), "sparsity", "finite"),
        (0.5, "sparsty", "did you mean sparsity"),
        (0, "params", "above 0"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(amount, of, message):
    with pytest.raises(UserError, match=message):
        Budget(amount, of)

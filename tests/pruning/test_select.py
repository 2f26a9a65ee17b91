"""Exact selection: the count, the ranks and the ties are right for any input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thrifty import native
from thrifty.errors import UserError
from thrifty.pruning import select
from thrifty.pruning.select import count_together, top, top_together

floats = st.lists(
    st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, float("-inf")]),
    min_size=1,
    max_size=60,
)


@pytest.fixture(autouse=True, scope="module", params=native.available())
def target(request):
    """Every test with the kernels of each target, and with numpy."""
    with native.use(request.param):
        yield request.param


def by_sorting(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The definition: a stable sort, ties by index."""
    order = np.argsort(-(scores.numpy().astype(np.float64) + 0.0), kind="stable")
    kept = np.zeros(len(order), dtype=bool)
    kept[order[:count]] = True
    return torch.from_numpy(kept)


@given(values=floats, share=st.floats(0, 1))
@settings(deadline=None)
def test_it_keeps_what_a_stable_sort_keeps(values, share):
    scores = torch.tensor(values, dtype=torch.float32)
    count = round(share * len(values))
    assert torch.equal(top(scores, count), by_sorting(scores, count))


@given(parts=st.lists(floats, min_size=1, max_size=4), share=st.floats(0, 1))
@settings(deadline=None)
def test_several_tensors_are_cut_as_if_they_were_one(parts, share):
    tensors = [torch.tensor(p, dtype=torch.float32) for p in parts]
    joined = torch.cat(tensors)
    count = round(share * len(joined))
    assert torch.equal(torch.cat(top_together(tensors, count)), by_sorting(joined, count))
    counts = [int(m.sum()) for m in top_together(tensors, count)]
    assert count_together(tensors, count) == counts


@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "sorted", "spiky", "huge"])
@pytest.mark.parametrize("share", [0.0, 1e-6, 0.1, 0.5, 0.999, 1.0])
def test_large_and_awkward_inputs_are_exact(kind, share, monkeypatch):
    monkeypatch.setattr(select, "_ROOM", 5_000)
    generator = torch.Generator().manual_seed(1)
    size = 200_001
    scores = {
        "normal": lambda: torch.randn(size, generator=generator),
        "ties": lambda: torch.randint(0, 3, (size,), generator=generator).float(),
        "zeros": lambda: torch.zeros(size),
        "sorted": lambda: torch.arange(size).float(),
        "spiky": lambda: torch.where(
            torch.arange(size) % 3 == 0, torch.rand(size, generator=generator), torch.tensor(-1.0)
        ),
        "huge": lambda: torch.randn(size, generator=generator) * 1e38,
    }[kind]()
    count = round(share * size)
    assert torch.equal(top(scores, count), by_sorting(scores, count))


def test_equal_scores_are_kept_in_order_of_memory():
    assert top(torch.ones(5), 2).tolist() == [True, True, False, False, False]


def test_half_precision_scores_are_ranked_without_loss():
    scores = torch.tensor([1.0, 1.0078125, 1.015625], dtype=torch.bfloat16)
    assert top(scores, 1).tolist() == [False, False, True]


def test_nan_is_an_error_that_says_where():
    scores = torch.ones(100_000)
    scores[70_000] = float("nan")
    with pytest.raises(UserError, match="score 70000 of tensor 1 is NaN"):
        top_together([torch.ones(3), scores], 5)


def test_infinite_scores_are_ranked_like_others():
    scores = torch.tensor([1.0, float("-inf"), float("inf"), float("inf"), float("-inf")])
    assert top(scores, 1).tolist() == [False, False, True, False, False]
    assert top(scores, 4).tolist() == [True, True, True, True, False]


@pytest.mark.parametrize("count", [-1, 4])
def test_a_count_outside_the_tensor_is_an_error(count):
    with pytest.raises(UserError, match="of 3 scores cannot be kept"):
        top(torch.ones(3), count)

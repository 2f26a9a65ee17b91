from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from thrifty.census.counts import count, empty, together


def test_a_tensor_is_counted_over_all_its_pieces(stored):
    w = np.float32([0.5, -0.05, 0.0, -0.0, 2.0, np.nan, -np.inf])
    counts = count(stored("w", w), [0.05, 0.5, 1.0])
    assert counts.count == 7
    assert counts.nbytes == 28
    assert counts.under == (2, 3, 4)
    assert (counts.zeros, counts.negative_zeros) == (2, 1)
    assert (counts.infinite, counts.nan) == (1, 1)
    assert counts.largest == 2.0
    assert counts.mean == pytest.approx((0.5 - np.float32(0.05) + 2) / 5)


def test_a_weight_at_the_threshold_is_not_under_it(stored):
    counts = count(stored("w", np.float32([0.5, -0.5, 0.25])), [0.5])
    assert counts.under == (1,)


def test_counts_in_a_pool_are_those_without_one(stored):
    w = np.random.default_rng(0).normal(0, 1, 1000).astype(np.float32)
    alone = count(stored("w", w, piece=7), [0.1, 1.0], relative=True)
    with ThreadPoolExecutor(2) as pool:
        pooled = count(stored("w", w, piece=7), [0.1, 1.0], relative=True, pool=pool)
    for name in ("under", "relative", "zeros", "total", "squares", "largest"):
        assert getattr(alone, name) == getattr(pooled, name), name
    assert (alone.octaves == pooled.octaves).all()


def test_relative_thresholds_do_not_change_when_a_tensor_is_scaled(stored):
    w = np.random.default_rng(0).normal(0, 1, 500).astype(np.float32)
    one = count(stored("w", w), [0.1, 1.0], relative=True)
    thousand = count(stored("w", w * 1024), [0.1, 1.0], relative=True)
    assert one.relative == thousand.relative
    assert one.under != thousand.under
    assert one.relative[1] == (np.abs(w) < one.std).sum()


def test_the_standard_deviation_is_that_of_numpy(stored):
    w = np.random.default_rng(0).normal(3, 0.1, 5000).astype(np.float32)
    assert count(stored("w", w, piece=999), [1.0]).std == pytest.approx(w.std(dtype=np.float64))


def test_several_tensors_add_up_to_one(stored):
    w = np.random.default_rng(0).normal(0, 1, 60).astype(np.float32)
    parts = [count(stored("w", p), [0.1]) for p in np.split(w, 3)]
    whole, sums = count(stored("w", w), [0.1]), together(parts)
    assert sums.under == whole.under
    assert sums.count == 60
    assert (sums.octaves == whole.octaves).all()
    assert sums.squares == pytest.approx(whole.squares)


def test_nothing_has_no_share(stored):
    counts = count(stored("w", np.empty(0, np.float32)), [0.1], relative=True)
    assert counts.count == 0
    assert np.isnan(counts.shares[0])
    assert np.isnan(counts.std)
    assert together([]).count == 0
    assert (empty(1) + empty(1)).count == 0

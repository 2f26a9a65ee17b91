import numpy as np
import pytest

from thrifty.census.counts import count
from thrifty.census.curves import decades, edges, energy, needed


def exact(w: np.ndarray, kept: np.ndarray) -> np.ndarray:
    squares = np.sort(w.astype(np.float64) ** 2)[::-1]
    held = np.concatenate([[0], np.cumsum(squares)]) / squares.sum()
    return np.interp(kept, np.arange(len(w) + 1) / len(w), held)


@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform"])
def test_the_curve_of_energy_is_the_exact_one(stored, kind):
    w = getattr(np.random.default_rng(0), kind)(size=100_000).astype(np.float32)
    kept, held = energy(count(stored("w", w, piece=9999), [1.0]))
    assert (kept[0], held[0]) == (0, 0)
    assert (kept[-1], held[-1]) == (1, pytest.approx(1))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held) >= 0).all()
    assert np.abs(held - exact(w, kept)).max() < 0.001


def test_zeros_hold_no_energy(stored):
    w = np.zeros(100, np.float32)
    w[:10] = 1
    counts = count(stored("w", w), [1.0])
    kept, held = energy(counts)
    assert held[kept >= 0.1].min() == pytest.approx(1)
    assert needed(counts, 0.9) == pytest.approx(0.09, abs=0.001)


def test_nothing_and_zeros_alone_have_no_curve(stored):
    for value in (0, np.inf, np.nan):
        w = stored("w", np.full(5, value, np.float32))
        for spread in (True, False):
            assert energy(count(w, [1.0], spread=spread))[0].size == 0
    assert np.isnan(needed(count(stored("w", np.empty(0, np.float32)), [1.0]), 0.5))


@pytest.mark.parametrize("bins", [1, 2, 4, 8, 16])
def test_the_density_over_decades_adds_up_to_what_is_not_zero(stored, bins):
    w = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    w[:2500] = 0
    low, high, density = decades(count(stored("w", w, piece=999), [1.0]), bins)
    assert (density * np.log10(high / low)).sum() == pytest.approx(0.75)
    assert low[0] > 0
    assert high[-1] > np.abs(w).max() >= low[-1]


def test_bins_begin_where_their_bits_say():
    found = edges()
    assert found[0] == 0
    assert found[127 * 16] == 1.0
    assert found[127 * 16 + 8] == 1.5
    assert found[-1] == 2.0**128

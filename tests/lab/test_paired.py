"""Times in turns, with no clock believed: what is asserted holds however slow the machine is."""

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thrifty.errors import UserError
from thrifty.lab.paired import Ratio, Taken, paired, ratio, turns


def taken(*seconds):
    return Taken(np.array(seconds, dtype=float), min(seconds))


@given(st.integers(1, 6), st.integers(0, 30))
def test_everyone_has_a_turn_in_every_round(count, number):
    assert sorted(turns(range(count), number)) == list(range(count))


@given(st.integers(2, 6))
def test_everyone_has_every_place_equally_often(count):
    orders = [turns(range(count), number) for number in range(2 * count)]
    for place in zip(*orders, strict=True):
        assert {place.count(i) for i in range(count)} == {2}


def test_each_is_called_in_each_round_and_the_least_is_of_all_calls():
    calls = {"a": 0, "b": 0}

    def of(name):
        def call():
            calls[name] += 1

        return call

    found = paired({name: of(name) for name in calls}, 4, turn=0.0)
    assert set(found) == {"a", "b"}
    for name, times in found.items():
        assert len(times.rounds) == 4
        assert times.least <= times.rounds.min()
        assert calls[name] >= 2 * 4  # one that warms and one that counts, each round


def test_garbage_is_not_collected_within_and_is_again_after():
    seen = []
    paired({"a": lambda: seen.append(gc.isenabled())}, 1, turn=0.0)
    assert not any(seen)
    assert gc.isenabled()


def test_garbage_collection_comes_back_after_an_error():
    with pytest.raises(ZeroDivisionError):
        paired({"a": lambda: 1 / 0}, 1)
    assert gc.isenabled()


def test_no_rounds_are_refused():
    with pytest.raises(UserError, match="1 or more"):
        paired({"a": lambda: None}, 0)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(0.1, 10), min_size=6, max_size=30),
    st.floats(0.1, 10),
    st.floats(0.1, 10),
)
def test_a_ratio_is_of_rounds_so_a_machine_that_slows_down_changes_nothing(load, one, two):
    slow = np.array(load)
    found = ratio(taken(*(slow * one)), taken(*(slow * two)))
    for value in (found.middle, found.low, found.high):
        assert value == pytest.approx(one / two)


def test_the_interval_holds_the_middle_and_narrows_with_rounds():
    rng = np.random.default_rng(0)
    few, many = (
        ratio(taken(*(2 * rng.lognormal(0, 0.1, n))), taken(*rng.lognormal(0, 0.1, n)))
        for n in (8, 200)
    )
    for found in (few, many):
        assert found.low <= found.middle <= found.high
        assert found.middle == pytest.approx(2, rel=0.2)
    assert many.high - many.low < few.high - few.low


def test_a_few_rounds_give_a_ratio_and_no_certainty():
    found = ratio(taken(2, 2, 2, 2, 2), taken(1, 1, 1, 1, 1))
    assert found.middle == 2 and not found.certain and np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize(
    ("low", "high", "certain"), [(0.9, 1.1, False), (1.01, 1.2, True), (0.5, 0.99, True)]
)
def test_what_includes_one_is_not_certain(low, high, certain):
    assert Ratio((low + high) / 2, low, high).certain is certain

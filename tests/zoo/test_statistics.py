"""Statistics of populations: definitions by hand, properties for any input."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from thrifty.errors import UserError
from thrifty.zoo.statistics import (
    agreement,
    agreement_range,
    cohen_kappa,
    collapsed,
    collapsed_share,
    error_agreement,
    gap,
    kendall,
    overtaking,
    pearson,
    quartiles,
    spearman,
    within_range,
)

CLASSES = 4
few = settings(max_examples=40, deadline=None)
classes = st.integers(0, CLASSES - 1)
inputs = st.integers(1, 30)
pair = inputs.flatmap(
    lambda n: st.tuples(
        arrays(np.uint8, n, elements=classes), arrays(np.uint8, n, elements=classes)
    )
)
numbers = st.integers(-20, 20).map(float)
figures = st.integers(2, 150).flatmap(
    lambda n: st.tuples(arrays(float, n, elements=numbers), arrays(float, n, elements=numbers))
)


@few
@given(pair)
def test_agreement_is_symmetric_and_full_with_oneself(both):
    a, b = both
    assert agreement(a, b) == agreement(b, a)
    assert agreement(a, a) == 1


@few
@given(pair, st.data())
def test_agreement_lies_in_the_range_of_the_accuracies(both, data):
    a, b = both
    labels = data.draw(arrays(np.uint8, len(a), elements=classes))
    low, high = agreement_range((a == labels).mean(), (b == labels).mean())
    assert low - 1e-12 <= agreement(a, b) <= high + 1e-12


@few
@given(st.integers(1, 30), st.data())
def test_of_two_classes_the_range_is_tighter_and_still_holds(n, data):
    a, b, labels = (data.draw(arrays(np.uint8, n, elements=st.integers(0, 1))) for _ in range(3))
    low, high = agreement_range((a == labels).mean(), (b == labels).mean(), classes=2)
    assert low - 1e-12 <= agreement(a, b) <= high + 1e-12


def test_the_range_of_two_good_networks_is_narrow():
    low, high = agreement_range(0.95, 0.95)
    assert low == pytest.approx(0.9)
    assert high == 1


def test_within_its_range_agreement_is_a_share_and_nan_in_a_range_of_one_value():
    found = within_range([0.9, 0.95, 1.0, 1.0], [0.9, 0.9, 0.9, 1.0], [1.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(found, [0, 0.5, 1, math.nan])


def test_kappa_is_that_of_the_textbook():
    """Cohen 1960, as in every textbook: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no."""
    a = np.repeat([0, 0, 1, 1], [20, 5, 10, 15])
    b = np.repeat([0, 1, 0, 1], [20, 5, 10, 15])
    assert cohen_kappa(a, b, 2) == pytest.approx(0.4)


def test_kappa_of_independent_answers_is_about_nought_where_agreement_is_not():
    random = np.random.default_rng(0)
    a, b = (random.choice(10, 100_000, p=[0.55] + [0.05] * 9) for _ in range(2))
    assert agreement(a, b) > 0.3
    assert abs(cohen_kappa(a, b, 10)) < 0.01


@few
@given(pair)
def test_kappa_is_at_most_agreement_and_one_with_oneself(both):
    a, b = both
    kappa = cohen_kappa(a, b, CLASSES)
    assert math.isnan(kappa) or kappa <= agreement(a, b) + 1e-12
    own = cohen_kappa(a, a, CLASSES)
    assert math.isnan(own) if len(set(a)) == 1 else own == pytest.approx(1)


@few
@given(pair)
def test_a_population_is_measured_as_its_members(both):
    a, b = (np.stack([x, np.roll(x, 1)]) for x in both)
    for measure in (agreement, lambda x, y: cohen_kappa(x, y, CLASSES)):
        apart = [measure(x, y) for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(measure(a, b), apart)


def test_agreement_of_errors_counts_only_inputs_that_both_get_wrong():
    labels = [0, 0, 0, 0, 0]
    assert error_agreement([0, 1, 1, 2, 0], [1, 1, 2, 2, 0], labels) == pytest.approx(2 / 3)
    assert math.isnan(error_agreement(labels, [0, 1, 1, 1, 1], labels))


def test_predictions_of_other_inputs_are_refused():
    with pytest.raises(UserError, match=r"\(3,\) and \(4,\)"):
        agreement([0, 1, 2], [0, 1, 2, 3])
    with pytest.raises(UserError, match="no input"):
        agreement([], [])
    with pytest.raises(UserError, match="one label an input"):
        error_agreement([0, 1], [0, 1], [0])


def test_a_class_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="class is 10; with 10 classes a prediction is 0 to 9"):
        cohen_kappa([0, 10], [0, 1], 10)


@few
@given(figures)
def test_kendall_is_that_of_all_pairs(both):
    a, b = both
    order = [
        (np.sign(a[i] - a[j]), np.sign(b[i] - b[j]))
        for i, j in itertools.combinations(range(len(a)), 2)
    ]
    together = sum(x * y for x, y in order)
    room = math.sqrt(sum(x != 0 for x, _ in order)) * math.sqrt(sum(y != 0 for _, y in order))
    assert kendall(a, b) == pytest.approx(together / room if room else math.nan, nan_ok=True)


@few
@given(figures)
def test_spearman_is_the_correlation_of_mean_ranks(both):
    a, b = both
    ranks = [[(x < v).sum() + ((x == v).sum() + 1) / 2 for v in x] for x in (a, b)]
    assert spearman(a, b) == pytest.approx(pearson(*ranks), nan_ok=True)


@few
@given(figures)
def test_correlations_lie_between_the_ends_and_change_sign_with_a_figure(both):
    a, b = both
    for measure in (pearson, spearman, kendall):
        found = measure(a, b)
        assert math.isnan(found) or -1 <= found <= 1
        assert measure(a, -b) == pytest.approx(-found, nan_ok=True)


def test_a_growing_curve_has_full_rank_correlation_and_less_of_values():
    x = np.arange(1, 200) / 100
    assert spearman(x, np.exp(5 * x)) == pytest.approx(1)
    assert kendall(x, np.exp(5 * x)) == pytest.approx(1)
    assert pearson(x, np.exp(5 * x)) < 0.9


def test_pearson_holds_for_numbers_of_any_size():
    a = np.array([1.0, 2.0, 4.0])
    assert pearson(a * 1e-200, a * 1e200) == pytest.approx(1)


@pytest.mark.parametrize("measure", [pearson, spearman, kendall])
def test_pairs_without_a_value_are_left_out_and_constants_have_no_correlation(measure):
    assert measure([1, 2, 3, math.nan], [1, 2, 4, 9]) == pytest.approx(
        measure([1, 2, 3], [1, 2, 4])
    )
    assert math.isnan(measure([1, 1, 1], [1, 2, 3]))
    assert math.isnan(measure([1], [2]))
    with pytest.raises(UserError, match="2 values are paired with 3"):
        measure([1, 2], [1, 2, 3])


@few
@given(arrays(float, st.integers(1, 60), elements=st.floats(-1e6, 1e6)))
def test_a_box_is_in_order_and_within_the_values(values):
    s = quartiles(values)
    order = [s.least, s.low, s.q1, s.median, s.q3, s.high, s.most]
    assert order == sorted(order)
    assert (s.least, s.most, s.count) == (values.min(), values.max(), len(values))
    assert s.median == pytest.approx(np.median(values), rel=1e-9, abs=1e-9)


def test_a_whisker_ends_at_a_value_and_leaves_out_those_beyond():
    s = quartiles([0, 10, 11, 12, 13, 14, 30])
    assert (s.q1, s.median, s.q3) == (10.5, 12, 13.5)
    assert (s.low, s.high) == (10, 14)


def test_models_that_diverged_are_left_out_of_quartiles():
    assert quartiles([0.9, math.nan, 0.8, math.inf]).count == 2
    none = quartiles([math.nan])
    assert none.count == 0
    assert math.isnan(none.median)


def test_a_twin_has_collapsed_if_it_lost_ten_points_or_only_guesses_or_diverged():
    before = [0.9, 0.9, 0.9, 0.12, 0.12, 0.9]
    after = [0.80, 0.799, 0.95, 0.12, 0.16, math.nan]
    expected = [False, True, False, True, False, True]
    assert collapsed(before, after, 10).tolist() == expected
    assert collapsed_share(before, after, 10) == 0.5


def test_without_a_number_of_classes_only_what_was_lost_counts():
    assert collapsed([0.12, 0.9], [0.1, 0.5], None).tolist() == [False, True]


def test_the_gap_is_training_less_test():
    np.testing.assert_allclose(gap([0.9, 0.8], [0.85, 0.9]), [0.05, -0.1])


MAGNITUDE = ([0.5, 0.7, 0.8, 0.9], [0.91, 0.90, 0.88, 0.70])


def test_overtaking_is_where_the_lines_cross():
    assert overtaking(MAGNITUDE, ([0.5, 0.8, 0.9], [0.89, 0.87, 0.85])) == pytest.approx(
        0.8 + 0.1 * 0.01 / 0.16
    )


def test_a_method_that_is_behind_at_the_end_does_not_overtake():
    better_then_worse = ([0.5, 0.7, 0.9], [0.95, 0.80, 0.60])
    assert overtaking(MAGNITUDE, better_then_worse) is None


def test_of_several_crossings_the_last_counts():
    first = ([0.0, 1.0], [0.5, 0.5])
    crosses = ([0.0, 0.25, 0.5, 0.75, 1.0], [0.6, 0.6, 0.4, 0.4, 0.6])
    assert overtaking(first, crosses) == pytest.approx(0.875)


def test_a_method_that_is_always_ahead_overtakes_where_both_begin():
    assert overtaking(MAGNITUDE, ([0.3, 0.95], [0.99, 0.99])) == 0.5


def test_methods_without_a_common_sparsity_cannot_be_compared():
    assert overtaking(MAGNITUDE, ([0.95, 0.99], [0.9, 0.9])) is None
    assert overtaking(MAGNITUDE, ([], [])) is None


def test_the_order_of_points_and_points_measured_twice_do_not_matter():
    second = ([0.9, 0.5, 0.8, 0.8], [0.85, 0.89, 0.88, 0.86])
    assert overtaking(MAGNITUDE, second) == overtaking(
        MAGNITUDE, ([0.5, 0.8, 0.9], [0.89, 0.87, 0.85])
    )

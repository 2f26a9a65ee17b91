"""Twins beside their originals: rows become levels, each twin with its own original."""

import json
import math

import numpy as np
import pytest

from thrifty.errors import UserError
from thrifty.zoo.comparing import compare, nearest
from thrifty.zoo.levels import layer_sparsities

NAN = math.nan


def zoo(accuracies=(0.9, 0.8, 0.7), epochs=(1, 2)):
    """Models 10, 11, ... whose accuracy is reached at the last epoch."""
    rows = [
        (10 + number, epoch, accuracy if epoch == epochs[-1] else 0.3)
        for epoch in epochs
        for number, accuracy in enumerate(accuracies)
    ]
    model, epoch, accuracy = (np.array(column) for column in zip(*rows, strict=True))
    return {"model": model, "epoch": epoch, "test_accuracy": accuracy}


def twins(rows, **more):
    """(model, method, asked, epoch, sparsity, accuracy) a row."""
    model, method, asked, epoch, sparsity, accuracy = zip(*rows, strict=True)
    return {
        "model": np.array(model),
        "method": np.array(method, object),
        "asked": np.array(asked, float),
        "epoch": np.array(epoch),
        "sparsity": np.array(sparsity, float),
        "test_accuracy": np.array(accuracy, float),
        **{name: np.array(column) for name, column in more.items()},
    }


ROWS = [
    (12, "magnitude", 0.5, 3, 0.5, 0.65),
    (10, "magnitude", 0.5, 3, 0.5, 0.85),
    (10, "magnitude", 0.9, 3, 0.9, 0.30),
    (10, "variational", NAN, 1, 0.2, 0.88),
    (10, "variational", NAN, 2, 0.6, 0.86),
    (11, "variational", NAN, 2, 0.7, 0.70),
]


def test_a_twin_stands_beside_its_own_original_at_its_last_epoch():
    level = compare(zoo(), twins(ROWS), classes=10).path("magnitude")[0]
    pairs = dict(zip(level.models.tolist(), level.original.tolist(), strict=True))
    assert pairs == {10: 0.9, 12: 0.7}
    assert dict(zip(level.models.tolist(), level.accuracy.tolist(), strict=True)) == {
        10: 0.85,
        12: 0.65,
    }
    np.testing.assert_allclose(level.drop, 0.05)


def test_asked_sparsities_are_levels_and_so_are_epochs_of_a_method_that_chooses():
    study = compare(zoo(), twins(ROWS), classes=10)
    assert study.methods == ["magnitude", "variational"]
    assert [level.name for level in study.path("magnitude")] == ["50 %", "90 %"]
    assert [level.name for level in study.path("variational")] == ["epoch 1", "epoch 2"]
    assert [level.name for level in study.finals] == ["50 %", "90 %", "epoch 2"]


def test_of_a_level_only_the_last_epoch_counts():
    rows = [*ROWS, (10, "magnitude", 0.5, 5, 0.5, 0.89)]
    level = compare(zoo(), twins(rows), classes=10).path("magnitude")[0]
    assert (level.epoch, level.models.tolist(), level.accuracy.tolist()) == (5, [10], [0.89])


def test_the_accuracy_right_after_the_cut_is_kept_of_levels_that_were_retrained():
    rows = [*ROWS, (10, "magnitude", 0.5, 0, 0.5, 0.4), (12, "magnitude", 0.5, 0, 0.5, 0.2)]
    study = compare(zoo(), twins(rows), classes=10)
    assert study.path("magnitude")[0].before == pytest.approx(0.3)
    assert math.isnan(study.path("magnitude")[1].before)
    only_cut = compare(zoo(), twins([(10, "magnitude", 0.5, 0, 0.5, 0.4)]), classes=10)
    assert math.isnan(only_cut.levels[0].before)


def test_a_parent_column_names_the_original():
    columns = twins([(0, "magnitude", 0.5, 1, 0.5, 0.6)], parent=[12])
    assert compare(zoo(), columns, classes=10).levels[0].original.tolist() == [0.7]


def test_a_twin_that_is_told_twice_counts_once():
    assert len(compare(zoo(), twins([ROWS[0]] * 2), classes=10).levels[0].models) == 1


def test_twins_of_another_zoo_are_refused():
    with pytest.raises(UserError, match="1 of 1 twins are of models .* such as model 99"):
        compare(zoo(), twins([(99, "magnitude", 0.5, 1, 0.5, 0.6)]), classes=10)


def test_a_missing_column_is_named():
    with pytest.raises(UserError, match="of the zoo of twins has no column 'method'"):
        compare(zoo(), zoo(), classes=10)
    with pytest.raises(UserError, match="of the zoo has no column 'test_accuracy'"):
        compare({"model": np.zeros(1), "epoch": np.zeros(1)}, None, classes=10)


def test_a_zoo_without_models_is_refused():
    empty = {name: np.zeros(0) for name in ("model", "epoch", "test_accuracy")}
    with pytest.raises(UserError, match="the zoo has no model yet"):
        compare(empty, None, classes=10)


def test_one_class_is_refused():
    with pytest.raises(UserError, match="classes is 1"):
        compare(zoo(), None, classes=1)


def test_a_diverged_twin_has_collapsed_and_has_no_accuracy():
    columns = twins(ROWS[:2], diverged=[True, False])
    level = compare(zoo(), columns, classes=10).levels[0]
    figures = level.figures
    assert (figures["collapsed"], figures["diverged"], figures["accuracy"]) == (0.5, 1, 0.85)


def test_twins_of_a_diverged_original_are_left_out():
    original = zoo() | {"diverged": np.array([False] * 5 + [True])}
    assert compare(original, twins(ROWS[:2]), classes=10).levels[0].models.tolist() == [10]


def test_predictions_give_agreement_and_kappa_of_finished_levels():
    answers = np.array([[0, 1, 2, 3], [0, 1, 2, 3], [3, 2, 1, 0]] * 2, np.uint8)
    twin = np.array([[0, 0, 0, 0], [0, 1, 2, 0]] * 3, np.uint8)

    def first(rows):
        return answers[rows]

    def second(rows):
        return twin[rows]

    labels = np.array([0, 1, 1, 1])
    study = compare(zoo(), twins(ROWS), classes=4, predictions=(first, second), labels=labels)
    level = study.path("magnitude")[0]
    found = dict(zip(level.models.tolist(), level.agreement.tolist(), strict=True))
    assert found == {10: 0.75, 12: 0.25}
    assert level.kappa[level.models == 10] == pytest.approx((0.75 - 0.25) / 0.75)
    assert level.error_agreement[level.models == 10] == 0.5
    assert np.isnan(study.path("variational")[0].kappa).all()


def test_what_the_index_says_of_agreement_stays():
    columns = twins(ROWS[:2], agreement=[0.5, NAN])
    ones = np.ones((6, 4), np.uint8)
    predictions = (lambda rows: ones[rows], lambda rows: ones[rows])
    level = compare(zoo(), columns, classes=4, predictions=predictions).levels[0]
    assert dict(zip(level.models.tolist(), level.agreement.tolist(), strict=True)) == {
        12: 0.5,
        10: 1.0,
    }


def test_layers_are_read_in_either_form_and_what_cannot_be_read_is_nan():
    texts = [
        json.dumps({"conv": [25, 100], "fc": [10, 10]}),
        json.dumps({"conv": {"kept": 50, "all": 100}}),
        "{",
        None,
        json.dumps({"conv": "many"}),
    ]
    found = layer_sparsities(texts)
    assert list(found) == ["conv", "fc"]
    np.testing.assert_array_equal(found["conv"], [0.75, 0.5, NAN, NAN, NAN])
    np.testing.assert_array_equal(found["fc"], [0, NAN, NAN, NAN, NAN])


def test_methods_are_compared_at_the_sparsity_that_one_chose():
    study = compare(zoo(), twins(ROWS), classes=10)
    assert [level.name for level in nearest(study, most_apart=0.2)] == ["50 %", "epoch 2"]
    assert [level.name for level in nearest(study, most_apart=0.01)] == ["epoch 2"]


def test_methods_that_were_asked_are_compared_at_the_largest_common_sparsity():
    rows = [(10, m, s, 1, s, 0.5) for m, s in (("a", 0.5), ("a", 0.9), ("b", 0.5), ("b", 0.8))]
    assert [level.name for level in nearest(compare(zoo(), twins(rows), classes=10))] == [
        "50 %"
    ] * 2


def test_overtaking_is_that_of_the_medians():
    rows = [(10, "magnitude", s, 1, s, a) for s, a in ((0.5, 0.9), (0.9, 0.5))]
    rows += [(10, "variational", NAN, e, s, 0.8) for e, s in ((1, 0.4), (2, 0.95))]
    study = compare(zoo(), twins(rows), classes=10)
    assert study.overtaking("magnitude", "variational") == pytest.approx(0.6)
    assert study.overtaking("variational", "magnitude") is None


def test_predictions_are_read_for_so_many_models_at_a_time(monkeypatch):
    answers = np.random.default_rng(0).integers(0, 4, (7, 20))
    original = zoo(accuracies=[0.9] * 7, epochs=(1,))
    columns = twins([(10 + k, "magnitude", 0.5, 1, 0.5, 0.8) for k in range(7)])
    asked = []

    def first(rows):
        asked.append(len(rows))
        return answers[rows]

    def second(rows):
        return np.roll(answers, 1, axis=1)[rows]

    whole = compare(original, columns, classes=4, predictions=(first, second)).levels[0]
    monkeypatch.setattr("thrifty.zoo.levels.AT_ONCE", 3)
    parts = compare(original, columns, classes=4, predictions=(first, second)).levels[0]
    assert asked == [7, 3, 3, 1]
    np.testing.assert_array_equal(whole.kappa, parts.kappa)
    np.testing.assert_array_equal(whole.agreement, parts.agreement)

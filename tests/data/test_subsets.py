import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thrifty.data import Split
from thrifty.data.subsets import fold, held_out, spread
from thrifty.errors import UserError

some_labels = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(np.array)


@given(some_labels, st.data(), st.integers(0, 3))
def test_a_subset_has_the_count_asked_for_and_classes_in_proportion(labels, data, seed):
    count = data.draw(st.integers(1, len(labels)))
    rows = spread(labels, count, seed)
    assert len(rows) == count == len(set(rows))
    assert (np.diff(rows) > 0).all()
    for label in set(labels):
        share = (labels == label).sum() * count / len(labels)
        assert abs((labels[rows] == label).sum() - share) < 1


@given(some_labels)
def test_folds_are_disjoint_and_cover_everything(labels):
    rows = np.concatenate([fold(labels, k, 5, seed=0) for k in range(5)])
    assert sorted(rows) == list(range(len(labels)))


def test_folds_have_every_class_in_proportion():
    labels = np.repeat([0, 1, 2], [50, 10, 5])
    for k in range(5):
        assert np.bincount(labels[fold(labels, k, 5, seed=1)]).tolist() == [10, 2, 1]


def test_a_seed_names_the_same_rows_for_good():
    labels = np.arange(20) % 4
    assert spread(labels, 5, seed=0).tolist() == [1, 4, 8, 18, 19]
    assert spread(labels, 5, seed=1).tolist() != spread(labels, 5, seed=0).tolist()


def test_a_fifth_is_held_out_and_a_class_of_one_row_stays_in_training():
    whole = Split(torch.arange(21.0)[:, None], torch.tensor([0] * 10 + [1] * 10 + [2]))
    train, test = held_out(whole, seed=0)
    assert torch.bincount(train.labels).tolist() == [8, 8, 1]
    assert torch.bincount(test.labels).tolist() == [2, 2]
    both = torch.cat([train.inputs, test.inputs]).flatten()
    assert both.sort().values.tolist() == list(range(21))


def test_nothing_can_be_held_out_of_classes_of_one_row():
    with pytest.raises(UserError, match="no class has two rows"):
        held_out(Split(torch.zeros(3, 1), torch.arange(3)), seed=0)

"""Training inputs without labels: how they are given, and where they are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from thrifty.data import Data, Split, load_data
from thrifty.data.arrays import arrays_data
from thrifty.data.sets import UNLABELED
from thrifty.errors import UserError
from thrifty.lab.sensitivity_steps import Inputs
from thrifty.pruning.pruning import batches
from thrifty.zoo.sets import split_of


def arrays(**more):
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    y = np.arange(20) % 4
    return {"x_train": x, "y_train": y, "x_test": x[:8], "y_test": y[:8], **more}


def unlabelled(data: Data) -> int:
    return int((data.train.labels == UNLABELED).sum())


# labels=N


def test_some_labels_are_kept_in_proportion_and_the_others_forgotten():
    whole, some = load_data("digits?train=200"), load_data("digits?train=200&labels=20")
    assert unlabelled(some) == 180 and unlabelled(whole) == 0
    known = some.train.labels != UNLABELED
    assert torch.bincount(some.train.labels[known]).tolist() == [2] * 10
    assert torch.equal(some.train.labels[known], whole.train.labels[known])
    assert torch.equal(some.train.inputs, whole.train.inputs)
    assert torch.equal(some.test.labels, whole.test.labels)
    assert (some.mean, some.std) == (whole.mean, whole.std)
    assert some.digest != whole.digest


def test_the_seed_decides_which_labels_are_kept():
    kept = [load_data(f"digits?train=200&labels=20{more}").train.labels for more in ("", "&seed=0")]
    assert torch.equal(*kept)
    known = [
        load_data(f"digits?labels=20&seed={seed}").train.labels != UNLABELED for seed in (0, 1)
    ]
    assert not torch.equal(*known)


def test_no_label_and_all_labels_may_be_kept():
    assert unlabelled(load_data("digits?train=50&labels=0")) == 50
    assert unlabelled(load_data("digits?train=50&labels=50")) == 0


@pytest.mark.parametrize("said", ["labels=51", "labels=-1", "labels=half", "labels=true"])
def test_labels_that_cannot_be_kept_are_refused(said):
    with pytest.raises(UserError, match="labels"):
        load_data(f"digits?train=50&{said}")


# Arrays and folders


def test_arrays_without_labels_come_after_those_with():
    more = np.full((5, 2), 7, np.float32)
    data = load_data(replace(arrays_data(arrays(x_unlabeled=more), "mine")))
    assert (len(data.train), unlabelled(data), data.classes, data.unlabeled) == (25, 5, 4, True)
    assert data.train.inputs[20:].unique().tolist() == [7.0]
    assert torch.equal(data.labeled.inputs, data.train.inputs[:20])
    assert int(data.labeled.labels.min()) == 0


def test_a_training_part_may_be_all_without_labels(tmp_path):
    said = arrays(x_unlabeled=np.zeros((5, 2), np.float32))
    del said["x_train"], said["y_train"]
    np.savez(tmp_path / "a.npz", **said)
    data = load_data(f"npz:{tmp_path}/a.npz")
    assert (len(data.train), unlabelled(data), data.classes) == (5, 5, 4)


def test_arrays_to_be_split_may_have_some_without_labels():
    whole = arrays()
    said = {"x": whole["x_train"], "y": whole["y_train"], "x_unlabeled": whole["x_test"]}
    data = arrays_data(said, "mine")
    assert (len(data.train), len(data.test), unlabelled(data)) == (24, 4, 8)


BAD = {
    "must be alike": {"x_unlabeled": np.zeros((5, 3), np.float32)},
    "x_unlabeled has the shape": {"x_unlabeled": np.zeros(5)},
    "NaN or infinity, first in row 20": {"x_unlabeled": np.full((5, 2), np.nan)},
    "label -1 of row 3 .* are given as x_unlabeled": {
        "y_train": np.where(np.arange(20) == 3, -1, 1)
    },
}


@pytest.mark.parametrize("message", BAD)
def test_arrays_that_do_not_fit_are_explained(tmp_path, message):
    np.savez(tmp_path / "a.npz", **arrays(**BAD[message]))
    with pytest.raises(UserError, match=message):
        load_data(f"npz:{tmp_path}/a.npz")


@pytest.mark.parametrize("trained", [True, False])
def test_a_folder_called_unlabeled_is_no_class(tmp_path, write_pictures, trained):
    for name in ("a", "b"):
        write_pictures(tmp_path / "test" / name, 2, 4, 6, 3)
        if trained:
            write_pictures(tmp_path / "train" / name, 3, 4, 6, 3)
    write_pictures(tmp_path / "unlabeled" / "deep", 5, 4, 6)  # grey, as the others are not
    data = load_data(f"folder:{tmp_path}")
    assert (data.class_names, data.shape) == (("a", "b"), (3, 4, 6))
    assert (len(data.train), unlabelled(data)) == (11 if trained else 5, 5)


def test_a_folder_of_classes_may_have_some_without_a_class(tmp_path, write_pictures):
    for name in ("a", "b", "unlabeled"):
        write_pictures(tmp_path / name, 10, 4, 6)
    data = load_data(f"folder:{tmp_path}")
    assert (data.classes, len(data.train), len(data.test), unlabelled(data)) == (2, 26, 4, 10)
    for path in (tmp_path / "unlabeled").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="the folder .*unlabeled has no picture"):
        load_data(f"folder:{tmp_path}?seed=1")


# Where a label is a must


def test_a_missing_label_is_a_mistake_unless_it_is_said_to_be_none():
    data = load_data("digits?train=50&labels=10")
    load_data(data)
    with pytest.raises(UserError, match="train label -1 of row"):
        load_data(replace(data, unlabeled=False))
    test = Split(data.test.inputs, torch.full_like(data.test.labels, UNLABELED))
    with pytest.raises(UserError, match="test label -1 of row 0"):
        load_data(replace(data, test=test))
    with pytest.raises(UserError, match="train label -2 of row"):
        labels = torch.full_like(data.train.labels, -2)
        load_data(replace(data, train=Split(data.train.inputs, labels)))


def test_one_class_among_the_labels_is_refused():
    data = load_data("digits?train=50&labels=10")
    labels = torch.where(data.train.labels == UNLABELED, UNLABELED, 3)
    with pytest.raises(UserError, match="every train label is 3"):
        load_data(replace(data, train=Split(data.train.inputs, labels)))


def test_evidence_and_studies_take_the_inputs_with_labels():
    data = load_data("digits?train=200&labels=40")
    model = torch.nn.Linear(1, 1)
    labels = torch.cat([labels for _, labels in batches(data, model, 100)])
    assert len(labels) == 40 and int(labels.min()) >= 0
    studied = Inputs.drawn(data, 20, test=False, seed=0)
    assert int(studied.data.test.labels.min()) >= 0
    none = load_data("digits?train=200&labels=0")
    assert sum(len(labels) for _, labels in batches(none, model, 100)) == 128
    with pytest.raises(UserError, match="no training inputs to measure on"):
        Inputs.drawn(none, 20, test=False, seed=0)


def test_a_zoo_refuses_inputs_without_labels():
    with pytest.raises(UserError, match="models of a zoo cannot learn"):
        split_of(load_data("digits?train=50&labels=10"), 0.0)

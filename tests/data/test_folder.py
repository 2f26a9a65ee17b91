import pytest
import torch

from thrifty.data import load_data
from thrifty.errors import UserError


@pytest.fixture
def classes(tmp_path, write_pictures):
    """A folder with the classes ``a``, ``b`` of ten 6 x 4 colour pictures each."""
    for name in "ba":
        write_pictures(tmp_path / name, 10, 4, 6, 3)
    return tmp_path


def test_classes_are_sorted_and_split_80_to_20(classes):
    data = load_data(f"folder:{classes}")
    assert (data.class_names, data.classes, data.shape) == (("a", "b"), 2, (3, 4, 6))
    assert torch.bincount(data.train.labels).tolist() == [8, 8]
    assert torch.bincount(data.test.labels).tolist() == [2, 2]


@pytest.mark.parametrize("test", ["test", "val", "validation"])
def test_train_and_test_folders_are_kept_apart(tmp_path, write_pictures, pixels, test):
    for name in ("x", "y"):
        write_pictures(tmp_path / "train" / name, 3, 5, 5)
        write_pictures(tmp_path / test / name, 2, 5, 5)
    data = load_data(f"folder:{tmp_path}")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(data.train.inputs[:3, 0], torch.from_numpy(pixels(3, 5, 5)))
    assert len(data.test) == 4


def test_hidden_files_and_other_files_are_passed_over(classes):
    (classes / "a" / "Thumbs.db").write_bytes(b"x")
    (classes / "a" / ".hidden.png").write_bytes(b"x")
    (classes / ".git").mkdir()
    assert len(load_data(f"folder:{classes}").train) == 16


def test_a_corrupt_picture_is_named(classes):
    (classes / "b" / "3.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(UserError, match=r"b/3\.png: the picture cannot be decoded"):
        load_data(f"folder:{classes}")


def test_an_empty_class_is_named(classes):
    (classes / "c").mkdir()
    with pytest.raises(UserError, match="class folder .*c has no picture"):
        load_data(f"folder:{classes}")


def test_a_single_class_is_refused(tmp_path, write_pictures):
    write_pictures(tmp_path / "a", 3, 4, 4)
    with pytest.raises(UserError, match="has 1 folders of pictures"):
        load_data(f"folder:{tmp_path}")


def test_train_without_test_says_how_to_split(tmp_path, write_pictures):
    write_pictures(tmp_path / "train" / "a", 2, 4, 4)
    write_pictures(tmp_path / "train" / "b", 2, 4, 4)
    with pytest.raises(UserError, match="to split train 80/20 write folder:.*train"):
        load_data(f"folder:{tmp_path}")


def test_a_class_that_is_only_in_one_part_is_named(classes, tmp_path, write_pictures):
    for name in ("train/a", "train/b", "test/a", "test/c"):
        write_pictures(tmp_path / "deep" / name, 2, 4, 4)
    with pytest.raises(UserError, match="the classes b, c are only in one"):
        load_data(f"folder:{tmp_path}/deep")


def test_pictures_of_many_sizes_are_resized(classes, write_pictures):
    write_pictures(classes / "c", 5, 9, 9)
    with pytest.raises(UserError, match="give size=N"):
        load_data(f"folder:{classes}")
    assert load_data(f"folder:{classes}?size=8").shape == (3, 8, 8)

import os
from pathlib import Path

import pytest
import torch

from thrifty.data import load_data
from thrifty.errors import UserError

pytest.importorskip("pyarrow")


@pytest.fixture
def pngs(encode, pixels):
    """``pngs(10, 8, 8, 3)``: encoded pictures."""
    return lambda *shape: [encode(p) for p in pixels(*shape)]


def test_a_folder_of_shards_is_read_in_order(write_parquet, pngs, pixels, tmp_path):
    contents = pngs(10, 32, 32, 3)
    write_parquet("train-00000-of-00002.parquet", contents[:4], [0, 1, 2, 0], names="abc")
    write_parquet("train-00001-of-00002.parquet", contents[4:7], [2, 1, 1], names="abc")
    write_parquet("test.parquet", contents[7:], [0, 1, 2], names="abc")
    data = load_data(f"parquet:{tmp_path}")
    expected = torch.from_numpy(pixels(10, 32, 32, 3)).permute(0, 3, 1, 2)
    assert torch.equal(torch.cat([data.train.inputs, data.test.inputs]), expected)
    assert data.train.labels.tolist() == [0, 1, 2, 0, 2, 1, 1]
    assert (data.classes, data.class_names) == (3, ("a", "b", "c"))
    assert (data.shift, data.flip) == (4, True)


@pytest.mark.parametrize("test", ["validation.parquet", "val-0.parquet", "test-0.parquet"])
def test_the_test_part_may_be_called_validation_and_lie_in_data(
    write_parquet, pngs, tmp_path, test
):
    write_parquet("data/train.parquet", pngs(3, 4, 4), [0, 1, 1])
    write_parquet(f"data/{test}", pngs(2, 4, 4), [0, 1])
    data = load_data(f"parquet:{tmp_path}")
    assert (len(data.train), len(data.test), data.shape) == (3, 2, (1, 4, 4))
    assert (data.shift, data.flip) == (0, False)


def test_one_file_is_split_80_to_20(write_parquet, pngs):
    path = write_parquet("all.parquet", pngs(20, 4, 4), [0, 1] * 10)
    data = load_data(f"parquet:{path}")
    assert torch.bincount(data.train.labels).tolist() == [8, 8]
    assert torch.bincount(data.test.labels).tolist() == [2, 2]
    assert load_data(f"parquet:{path}?seed=1").digest != data.digest


def test_one_file_can_be_taken_whole_to_measure_finished_networks(write_parquet, pngs):
    path = write_parquet("all.parquet", pngs(3, 4, 4), [0, 7, 5])
    with pytest.raises(UserError, match=r"all\.parquet: no class has two rows.*add split=none"):
        load_data(f"parquet:{path}?classes=9")
    data = load_data(f"parquet:{path}?classes=9&split=none")
    assert data.classes == 9
    assert data.test.labels.tolist() == data.train.labels.tolist() == [0, 7, 5]
    assert len(load_data(f"parquet:{path}?classes=9&split=none&test=2").train) == 3


def test_another_split_is_told_with_those_that_there_are(write_parquet, pngs, tmp_path):
    path = write_parquet("all.parquet", pngs(20, 4, 4), [0, 1] * 10)
    with pytest.raises(UserError, match="split is 'half'; of one file it is 80/20 or none"):
        load_data(f"parquet:{path}?split=half")
    with pytest.raises(UserError, match="split is 'none'; of one file"):
        load_data(f"parquet:{tmp_path}?split=none")
    assert load_data(f"parquet:{path}?split=80/20").digest == load_data(f"parquet:{path}").digest


def test_columns_can_be_named_and_pictures_be_plain_binary(write_parquet, pngs):
    path = write_parquet("a.parquet", pngs(10, 4, 4), [0, 1] * 5, "scan", "kind", plain=True)
    with pytest.raises(UserError, match="it has extra, scan, kind; say which .* image=COLUMN"):
        load_data(f"parquet:{path}")
    assert load_data(f"parquet:{path}?image=scan&label=kind").classes == 2
    with pytest.raises(UserError, match="no column is called 'scam'"):
        load_data(f"parquet:{path}?image=scam&label=kind")


def test_grey_pictures_among_colour_become_colour(write_parquet, encode, pixels):
    grey, colour = pixels(1, 4, 4)[0], pixels(9, 4, 4, 3)
    contents = [encode(grey), *map(encode, colour)]
    path = write_parquet("a.parquet", contents, [0, 1] * 5)
    data = load_data(f"parquet:{path}")
    assert data.shape == (3, 4, 4)
    pictures = torch.cat([data.train.inputs, data.test.inputs])
    expected = torch.from_numpy(grey).expand(3, 4, 4)
    assert any(torch.equal(picture, expected) for picture in pictures)
    assert load_data(f"parquet:{path}?channels=1").shape == (1, 4, 4)
    with pytest.raises(UserError, match="channels is 2"):
        load_data(f"parquet:{path}?channels=2")


def test_a_grey_test_part_of_a_colour_data_set_becomes_colour(write_parquet, pngs, tmp_path):
    write_parquet("train.parquet", pngs(3, 4, 4, 3), [0, 1, 1])
    write_parquet("test.parquet", pngs(2, 4, 4), [0, 1])
    assert load_data(f"parquet:{tmp_path}").test.inputs.shape == (2, 3, 4, 4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_corrupt_picture_is_named_by_file_and_row(write_parquet, encode, pixels, kind):
    contents = [encode(p, kind) for p in pixels(8, 16, 16, 3)]
    contents[5] = contents[5][: len(contents[5]) // 2]
    path = write_parquet("a.parquet", contents, [0, 1] * 4)
    with pytest.raises(UserError, match=r"a\.parquet, row 5 .*cannot be decoded"):
        load_data(f"parquet:{path}")


def test_a_row_without_a_picture_is_named(write_parquet, pngs):
    path = write_parquet("a.parquet", [*pngs(3, 4, 4), None], [0, 1, 0, 1])
    with pytest.raises(UserError, match="row 3 .*no picture in the file"):
        load_data(f"parquet:{path}")


def test_unequal_sizes_are_refused_unless_resized(write_parquet, pngs):
    path = write_parquet("a.parquet", pngs(5, 4, 4) + pngs(5, 6, 4), [0, 1] * 5)
    with pytest.raises(UserError, match="row 5 .* 4 x 6 pixels, .* 4 x 4; give size=N"):
        load_data(f"parquet:{path}")
    assert load_data(f"parquet:{path}?size=5").shape == (1, 5, 5)


BAD_LABELS = {
    "row 4 .*label is -1; it must be 0 or more": ([0, 1, 0, 1, -1], "", None),
    "row 3 .*label is missing": ([0, 1, 0, None, 1], "", None),
    "row 4 .*label is 2; it must be 0 .. 1": ([0, 1, 0, 1, 2], "", "ab"),
    "row 4 .*label is 7; it must be 0 .. 4": ([0, 1, 0, 1, 7], "?classes=5", None),
    "holds string; labels are whole numbers": (["a", "b"] * 2 + ["a"], "", None),
    "holds double": ([0.0, 1.0, 0.0, 1.0, 0.0], "", None),
    "classes is 1": ([0, 0, 0, 0, 0], "", None),
}


@pytest.mark.parametrize("message", BAD_LABELS)
def test_labels_that_cannot_be_are_named_by_file_and_row(write_parquet, pngs, message):
    labels, options, names = BAD_LABELS[message]
    path = write_parquet("a.parquet", pngs(5, 4, 4), labels, names=names)
    with pytest.raises(UserError, match=message):
        load_data(f"parquet:{path}{options}")


def test_a_folder_without_a_test_part_says_which_names_were_looked_for(
    write_parquet, pngs, tmp_path
):
    write_parquet("train.parquet", pngs(2, 4, 4), [0, 1])
    with pytest.raises(UserError, match=r"test\*\.parquet .validation\*, val\*.*train\.parquet"):
        load_data(f"parquet:{tmp_path}")


def test_a_shard_without_the_column_is_named(write_parquet, pngs, tmp_path):
    write_parquet("train-0.parquet", pngs(2, 4, 4), [0, 1])
    write_parquet("train-1.parquet", pngs(2, 4, 4), [0, 1], image="image")
    write_parquet("test.parquet", pngs(2, 4, 4), [0, 1])
    with pytest.raises(UserError, match=r"train-1\.parquet: no column is called 'img'"):
        load_data(f"parquet:{tmp_path}")


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"a\.parquet: not a parquet file"):
        load_data(f"parquet:{tmp_path}/a.parquet")


def test_a_parquet_file_damaged_inside_is_a_user_error(write_parquet, pngs):
    path = write_parquet("a.parquet", pngs(8, 32, 32), [0, 1] * 4)
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.parquet"):
        load_data(f"parquet:{path}")


@pytest.mark.real
@pytest.mark.skipif("THRIFTY_DATA" not in os.environ, reason="THRIFTY_DATA is not set")
def test_the_cifar_test_pictures_are_1000_of_each_class():
    path = Path(os.environ["THRIFTY_DATA"]) / "cifar10" / "test.parquet"
    data = load_data(f"parquet:{path}")
    both = torch.cat([data.train.labels, data.test.labels])
    assert torch.bincount(both).tolist() == [1000] * 10
    assert data.class_names[:3] == ("airplane", "automobile", "bird")
    assert (data.shape, data.shift, data.flip) == ((3, 32, 32), 4, True)
    assert data.mean == pytest.approx((0.494, 0.485, 0.450), abs=5e-3)


@pytest.mark.real
@pytest.mark.skipif("THRIFTY_DATA" not in os.environ, reason="THRIFTY_DATA is not set")
def test_the_imagenet_samples_are_500_of_1000_classes():
    path = Path(os.environ["THRIFTY_DATA"]) / "imagenet-samples" / "samples.parquet"
    data = load_data(f"parquet:{path}?split=none&normalize=caffe&crop=224")
    assert (data.classes, data.shape, len(data.test)) == (1000, (3, 224, 224), 500)
    assert data.test.labels.unique().tolist() == list(range(0, 1000, 2))

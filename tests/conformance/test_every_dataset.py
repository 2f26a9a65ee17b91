"""What must hold for every data set: a new one needs a fixture here and nothing else."""

import struct
import sys

import numpy as np
import pytest
import torch

from thrifty.data import DATASETS, augment, load_data
from thrifty.data.load import _loaded, _read

MODULE = """
import numpy as np

def make(*, seed=0):
    x = np.random.default_rng(seed).random((20, 5)).astype(np.float32)
    return x, np.arange(20) % 2, x[:4], np.arange(4) % 2
"""


def some_pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def idx_files(folder):
    for part in ("train", "t10k"):
        for kind, values in (
            ("images-idx3", some_pixels(20, 6, 6)),
            ("labels-idx1", np.arange(20, dtype=np.uint8) % 10),
        ):
            header = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(header + values.tobytes())
    return str(folder)


def picture_folder(folder):
    image = pytest.importorskip("PIL.Image")
    for name in ("a", "b"):
        (folder / name).mkdir()
        for i, pixels in enumerate(some_pixels(10, 5, 5, 3)):
            image.fromarray(pixels).save(folder / name / f"{i}.png")
    return str(folder)


def parquet_folder(folder):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    picture_folder(folder)
    contents = [{"bytes": p.read_bytes(), "path": None} for p in sorted(folder.rglob("*.png"))]
    table = pyarrow.table({"image": contents, "label": [0] * 10 + [1] * 10})
    for part in ("train", "test"):
        pyarrow.parquet.write_table(table, folder / f"{part}.parquet")
    return str(folder)


def hub_folder(folder):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    (folder / "set").mkdir()
    return f"{parquet_folder(folder / 'set')}?cache={folder}/cache"


def archive(folder):
    np.savez(folder / "a.npz", x=some_pixels(20, 5, 5), y=np.arange(20) % 2)
    return str(folder / "a.npz")


def function(folder):
    (folder / "made_for_conformance.py").write_text(MODULE)
    return "made_for_conformance:make"


def usps_files(folder):
    for name in ("usps", "usps.t"):
        values = 2 * some_pixels(20, 256) / 255 - 1
        lines = [
            " ".join([str(i % 10 + 1), *(f"{p}:{v:.4f}" for p, v in enumerate(row, 1))])
            for i, row in enumerate(values)
        ]
        (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder)


def stl_files(folder):
    for part in ("train", "test"):
        some_pixels(20, 3, 96, 96).tofile(folder / f"{part}_X.bin")
        (np.arange(20, dtype=np.uint8) % 10 + 1).tofile(folder / f"{part}_y.bin")
    return str(folder)


FIXTURES = {
    "digits": lambda folder: "",
    "fashion_mnist": idx_files,
    "folder": picture_folder,
    "hf": hub_folder,
    "mnist": idx_files,
    "module": function,
    "npz": archive,
    "parquet": parquet_folder,
    "stl10": stl_files,
    "usps": usps_files,
}


def test_every_data_set_has_a_fixture():
    missing = set(DATASETS.names()) - set(FIXTURES)
    assert not missing, (
        f"the data sets {sorted(missing)} have no fixture; add to FIXTURES in {__file__} a "
        f"function that makes a tiny one in a folder and returns its location"
    )


@pytest.fixture(params=sorted(FIXTURES))
def spec(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    location = FIXTURES[request.param](tmp_path)
    yield request.param + (f":{location}" if location else "")
    sys.modules.pop("made_for_conformance", None)


def with_option(spec, option):
    return spec + ("&" if "?" in spec else "?") + option


def test_types_and_shapes_are_as_promised(spec):
    data = load_data(spec)
    assert data.name == spec
    for split in (data.train, data.test):
        assert len(split) == len(split.labels) > 0
        assert split.labels.dtype == torch.int64
        assert split.inputs.shape[1:] == data.shape
        assert split.inputs.dtype == (torch.uint8 if len(data.shape) == 3 else torch.float32)
        assert split.inputs.is_contiguous()
        assert 0 <= int(split.labels.min()) <= int(split.labels.max()) < data.classes
    assert len(data.mean) == len(data.std) == data.shape[0]
    assert len(data.class_names) in (0, data.classes)


def test_reading_again_gives_the_same(spec):
    first = load_data(spec)
    _loaded.cache_clear()
    _read.cache_clear()
    second = load_data(spec)
    assert second is not first
    assert second.digest == first.digest
    assert (second.mean, second.std) == (first.mean, first.std)


def test_a_prepared_batch_is_normalised_and_can_be_augmented(spec):
    data = load_data(spec)
    prepared = data.prepare(data.train.inputs)
    assert prepared.dtype == torch.float32
    axes = [0, *range(2, prepared.dim())]
    torch.testing.assert_close(prepared.mean(axes), torch.zeros(data.shape[0]), atol=1e-4, rtol=0)
    generator = torch.Generator().manual_seed(0)
    moved = augment(data.train.inputs, data.shift, data.flip, generator)
    assert moved.shape == data.train.inputs.shape
    assert moved.dtype == data.train.inputs.dtype


def test_a_subset_has_the_size_asked_for(spec):
    data = load_data(with_option(spec, "train=10&test=3"))
    assert (len(data.train), len(data.test)) == (10, 3)


def test_the_first_line_of_its_documentation_says_what_it_is(spec):
    assert DATASETS.summary(spec.partition(":")[0]).endswith((".", ":"))

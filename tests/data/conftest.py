import gzip
import io
import struct

import numpy as np
import pytest


def encoded(pixels, kind="PNG"):
    """An encoded picture of (height, width) or (height, width, 3) uint8 values."""
    file = io.BytesIO()
    pytest.importorskip("PIL.Image").fromarray(pixels).save(file, kind)
    return file.getvalue()


def idx(values):
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + bytes(values)


@pytest.fixture
def pixels():
    """``pixels(n, 8, 8, 3)``: random uint8, the same every time."""

    def make(*shape):
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    return make


@pytest.fixture
def encode():
    return encoded


@pytest.fixture
def idx_folder(tmp_path, pixels):
    """A folder of IDX files: 20 pictures to train, 10 to test, the last two files gzipped."""
    for part, n in (("train", 20), ("t10k", 10)):
        pictures, labels = pixels(n, 6, 6), np.arange(n, dtype=np.uint8) % 10
        end, pack = ("", bytes) if part == "train" else (".gz", gzip.compress)
        (tmp_path / f"{part}-images-idx3-ubyte{end}").write_bytes(pack(idx(pictures)))
        (tmp_path / f"{part}-labels.idx1-ubyte{end}").write_bytes(pack(idx(labels)))
    return tmp_path


@pytest.fixture
def write_parquet(tmp_path):
    """``write_parquet(name, contents, labels)``: a file in the layout of Hugging Face."""
    pyarrow, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))

    def write(name, contents, labels, image="img", label="label", names=None, plain=False):
        if not plain:
            contents = [{"bytes": c, "path": None} for c in contents]
        table = pyarrow.table({"extra": ["x"] * len(labels), image: contents, label: labels})
        if names:
            features = '{"info": {"features": {"%s": {"names": ["%s"]}}}}'
            meta = features % (label, '", "'.join(names))
            table = table.replace_schema_metadata({"huggingface": meta})
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, path, row_group_size=3)
        return path

    return write


@pytest.fixture
def write_pictures(pixels):
    """``write_pictures(folder, 3, 8, 8)``: three PNG files."""

    def write(folder, n, *shape):
        folder.mkdir(parents=True, exist_ok=True)
        for i, picture in enumerate(pixels(n, *shape)):
            (folder / f"{i}.png").write_bytes(encoded(picture))
        return folder

    return write

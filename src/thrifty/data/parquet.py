"""Pictures in parquet files, as Hugging Face publishes data sets."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from thrifty.data.columns import (
    Columns,
    arrow,
    find_columns,
    pictures_data,
    read_split,
)
from thrifty.data.pictures import Stack
from thrifty.data.places import file_at, folder_at, listing
from thrifty.data.sets import DATASETS, Data, Split
from thrifty.data.subsets import held_out
from thrifty.errors import UserError

BATCH = 1024


@DATASETS.entry("parquet")
def parquet(
    location: str,
    *,
    image: str = "",
    label: str = "",
    channels: int | None = None,
    classes: int | None = None,
    size: int | None = None,
    split: str = "",
    seed: int = 0,
) -> Data:
    """Pictures and labels in parquet files: a folder with train and test, or one file.

    A folder (or its sub-folder ``data``) holds train*.parquet and test*.parquet or
    validation*.parquet or val*.parquet, any number of each.  One file is split 80/20, or, with
    ``split=none``, taken whole for both parts: to measure networks that are trained already.

    Args:
        location: the folder or file.
        image: column of encoded pictures; found by its name unless given.
        label: column of labels; found by its name unless given.
        channels: 1 for grey, 3 for colour; by the files unless given.
        classes: number of classes; else by the file's metadata, else the largest label + 1.
        size: side to which each picture is resized.
        split: of one file: ``80/20``, or ``none``, where training and test part are the same.
        seed: of the split of one file.
    """
    path = Path(location).expanduser()
    if split not in ("", "80/20", "none") or (split and not path.is_file()):
        raise UserError(f"split is {split!r}; of one file it is 80/20 or none, else leave it out")
    parts = [[path]] if path.is_file() else _parts(location)
    columns = find_columns(_open(parts[0][0]).schema_arrow, str(parts[0][0]), image, label)
    known = classes or len(columns.class_names) or None
    splits = [_read(files, columns, Stack(_rows(files), size, channels), known) for files in parts]
    train, test = splits if len(splits) == 2 else _divided(splits[0], split, seed, location)
    return pictures_data("parquet", train, test, columns.class_names, classes)


def _divided(whole: Split, split: str, seed: int, location: str) -> tuple[Split, Split]:
    if split == "none":
        return whole, whole
    try:
        return held_out(whole, seed)
    except UserError as error:
        raise UserError(
            f"{location}: {error}; to measure networks that are trained already, add split=none"
        ) from None


def _parts(location: str) -> list[list[Path]]:
    """Files of the training and of the test part."""
    if location.endswith(".parquet"):
        return [[file_at("parquet", location)]]  # it is not there, which this says
    folder = folder_at("parquet", location)
    for place in (folder, folder / "data"):
        train = sorted(place.glob("train*.parquet"))
        for pattern in ("test*.parquet", "validation*.parquet", "val*.parquet"):
            test = sorted(place.glob(pattern))
            if train and test:
                return [train, test]
    raise UserError(
        f"{folder} lacks train*.parquet, or test*.parquet (validation*, val*) beside it, also in "
        f"data/; it has {listing(folder)}; to split one file 80/20 write parquet:FILE"
    )


def _open(path: Path) -> Any:
    pyarrow = arrow()
    try:
        file = pyarrow.parquet.ParquetFile(path)
        _ = file.schema_arrow.names  # a damaged name is found out only when it is asked for
        return file
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: not a parquet file that can be read ({error})") from error


def _rows(files: Sequence[Path]) -> int:
    return sum(_open(path).metadata.num_rows for path in files)


def _read(files: Sequence[Path], columns: Columns, stack: Stack, classes: int | None) -> Split:
    return read_split(_batches(files, columns), columns, stack.rows, stack, classes)


def _batches(files: Sequence[Path], columns: Columns) -> Iterator[tuple[str, int, Any]]:
    pyarrow = arrow()
    for path in files:
        file = _open(path)
        for name, option in ((columns.image, "image"), (columns.label, "label")):
            if name not in file.schema_arrow.names:
                raise UserError(
                    f"{path}: no column is called {name!r}, as in the first file; it has "
                    f"{', '.join(file.schema_arrow.names)}; name one that all have with {option}="
                )
        first = 0
        batches = file.iter_batches(BATCH, columns=[columns.image, columns.label])
        while True:
            try:
                batch = next(batches, None)
            except (pyarrow.ArrowException, OSError, ValueError) as error:
                raise UserError(
                    f"{path}: cannot be read after row {first} ({error}); get the file again"
                ) from error
            if batch is None:
                break
            yield str(path), first, batch
            first += batch.num_rows

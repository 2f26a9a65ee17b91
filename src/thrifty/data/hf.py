"""Data sets of the Hugging Face Hub, through their own library and its cache.

The network is used only with ``download=true``: an experiment that has its data starts at
once, and one that lacks it says so at once instead of waiting for connections to time out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from thrifty.data.columns import Columns, find_columns, pictures_data, read_split
from thrifty.data.pictures import Stack
from thrifty.data.sets import DATASETS, Data, Split
from thrifty.data.subsets import held_out
from thrifty.errors import MissingExtra, UserError

BATCH = 1024
TESTS = ("test", "validation", "valid", "val")


@DATASETS.entry("hf")
def hf(
    location: str,
    *,
    config: str = "",
    revision: str = "",
    train_split: str = "train",
    test_split: str = "",
    image: str = "",
    label: str = "",
    channels: int | None = None,
    classes: int | None = None,
    size: int | None = None,
    seed: int = 0,
    download: bool = False,
    cache: str = "",
) -> Data:
    """A data set of pictures by its Hub name, or a local folder that ``datasets`` understands.

    Args:
        location: such as ``uoft-cs/cifar10``.
        config: configuration, if the data set has several.
        revision: branch, tag or commit; the newest unless given.
        train_split: name of the training part.
        test_split: name of the test part; else test, validation, or a fifth of the training part.
        image: column of pictures; found by its name unless given.
        label: column of labels; found by its name unless given.
        channels: 1 for grey, 3 for colour; by the files unless given.
        classes: number of classes; by the metadata unless given.
        size: side to which each picture is resized.
        seed: of the split, if there is no test part.
        download: go to the network; without it only what is in the cache is read.
        cache: folder of the cache; that of the library unless given.
    """
    if not location:
        raise UserError("data set 'hf' needs a name; write hf:OWNER/NAME, such as hf:ylecun/mnist")
    found = _load(location, str(config), str(revision), download, cache)
    tests = [test_split] if test_split else [name for name in TESTS if name in found][:1]
    for name in (train_split, *tests):
        if name not in found:
            raise UserError(
                f"hf:{location} has no split {name!r}; it has {', '.join(map(str, found))}; "
                f"choose with train_split= and test_split="
            )
    first = found[train_split].with_format("arrow")
    columns = find_columns(first.features.arrow_schema, f"hf:{location}", image, label)
    known = classes or len(columns.class_names) or None
    splits = [
        _read(
            found[name].with_format("arrow"),
            f"hf:{location}, split {name}",
            columns,
            Stack(len(found[name]), size, channels),
            known,
        )
        for name in (train_split, *tests)
    ]
    train, test = splits if len(splits) == 2 else held_out(splits[0], seed)
    return pictures_data("hf", train, test, columns.class_names, classes)


def _load(location: str, config: str, revision: str, download: bool, cache: str) -> Any:
    """All splits by name."""
    try:
        import datasets
    except ImportError:
        raise MissingExtra("hub", "datasets", "a data set of the Hub") from None
    given = {"name": config or None, "revision": revision or None, "cache_dir": cache or None}
    try:
        if download:
            return datasets.load_dataset(location, **given)
        with _offline():
            return datasets.load_dataset(location, **given)
    except Exception as error:  # the library raises its own kinds and those of its HTTP client
        again = f"hf:{location}?download=true" + (f"&config={config}" if config else "")
        advice = (
            "check the name and the network, or give the parquet files with parquet:DIR"
            if download
            else f"nothing was downloaded; on a machine with network load {again} once, or bring "
            f"the data set's parquet files and write parquet:DIR"
        )
        raise UserError(f"hf:{location} cannot be read ({error}); {advice}") from error


@contextmanager
def _offline() -> Iterator[None]:
    """Make the Hub's libraries refuse the network; their settings are put back, no environment."""
    import datasets.config
    import huggingface_hub.constants

    places = (datasets.config, huggingface_hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _read(part: Any, where: str, columns: Columns, stack: Stack, classes: int | None) -> Split:
    tables = part.select_columns([columns.image, columns.label]).iter(BATCH)
    batches = ((where, number * BATCH, table) for number, table in enumerate(tables))
    return read_split(batches, columns, stack.rows, stack, classes)

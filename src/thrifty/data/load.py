"""From a spec to a checked ``Data``: the options all data sets have, and the memory of the last.

``train=N``, ``test=N``: a random subset of that size, classes in proportion.
``normalize=data|imagenet|caffe|half|none``: by the training inputs unless said otherwise;
``caffe`` puts blue first and subtracts (104, 117, 123) from bytes.
``shift=N``, ``flip=true|false``: augmentation, instead of what the data set itself sets.
``grey=true``: one channel of pictures in colour, then ``size=N``: resize pictures to N x N, then
``crop=N``: keep the N x N in the middle.
``labels=N``: of the training inputs a random N keep their label, classes in proportion, and the
others have none: a teacher tells of them (``thrifty distill``).  0 for no label at all.
``seed=N``: of subsets and splits, 0 unless given.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from thrifty.data.check import check
from thrifty.data.normalize import moments, ordered
from thrifty.data.pictures import cropped, grey, resized
from thrifty.data.places import reader_of
from thrifty.data.sets import DATASETS, Data, Split
from thrifty.data.subsets import forgotten, rows_of, spread
from thrifty.errors import UnknownName, UserError
from thrifty.registry import Spec, Value, call_spec, parse_spec, suggest

LARGEST_SIDE = 4096
COMMON = ("train", "test", "labels", "normalize", "shift", "flip", "grey", "size", "crop", "seed")


@dataclass(frozen=True, kw_only=True)
class Common:
    """The options that every data set has, checked."""

    train: int | None = None
    test: int | None = None
    labels: int | None = None
    normalize: str | None = None
    shift: int | None = None
    flip: bool | None = None
    grey: bool = False
    size: int | None = None
    crop: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"train": 1, "test": 1, "labels": 0, "shift": 0, "size": 1, "crop": 1, "seed": 0}
        for key, low in least.items():
            value = getattr(self, key)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and low <= value < 2**32):
                raise UserError(f"{key} is {value!r}; it is a whole number, {low} or more")
        if self.size is not None and self.size > LARGEST_SIDE:
            raise UserError(f"size is {self.size}; pictures are resized to {LARGEST_SIDE} at most")
        for key in ("flip", "grey"):
            value = getattr(self, key)
            if value is not None and not isinstance(value, bool):
                raise UserError(f"{key} is {value!r}; it is true or false")


def load_data(spec: str | Data) -> Data:
    """Load the data set that ``spec`` names, checked and normalised.

    The last few are kept in memory, so loading one again costs nothing as long as the spec,
    the current directory and the files (their times and sizes) stay the same.

    Args:
        spec: ``NAME[:LOCATION][?key=value&...]``; a ``Data`` is checked and passes through.

    Raises:
        UserError: what is wrong with the spec, the files or the data, and what to do.

    Example:
        >>> data = load_data("digits?train=100")
        >>> len(data.train), data.shape, data.classes
        (100, (1, 8, 8), 10)
    """
    if isinstance(spec, Data):
        check(spec)
        return spec
    text = str(spec)
    try:
        return _loaded(text, os.getcwd(), _stamp(text.partition("?")[0].partition(":")[2]))
    except OSError as error:
        raise UserError(
            f"{text}: cannot be read ({error}); see that its files are whole and may be read"
        ) from error


@lru_cache(maxsize=8)
def _loaded(text: str, directory: str, stamp: object) -> Data:
    parsed = parse_spec(text)
    name, _, location = parsed.name.partition(":")
    reader = _reader(parsed.name, name)
    _know_options(name, parsed.options, inspect.signature(reader).parameters)
    common = Common(**{k: v for k, v in parsed.options.items() if k in COMMON})  # type: ignore[arg-type]
    own = tuple(sorted((k, v) for k, v in parsed.options.items() if k not in COMMON))
    data = _read(name, location, own, common.seed, common.size, directory, stamp)
    data = _finished(replace(data, name=text), common)
    check(data)
    return data


@lru_cache(maxsize=4)  # apart, so that train=, normalize= and the like do not decode again
def _read(
    name: str,
    location: str,
    options: tuple[tuple[str, Value], ...],
    seed: int,
    size: int | None,
    directory: str,
    stamp: object,
) -> Data:
    spec = Spec(name, dict(options))
    defaults = {"seed": seed, "size": size}
    data = call_spec("data set", spec, DATASETS.get(name), location, defaults=defaults)
    if not isinstance(data, Data):
        raise UserError(f"data set {name!r} gave {type(data).__name__} instead of a Data")
    check(replace(data, name=f"{name}:{location}" if location else name))
    return data


def _finished(data: Data, common: Common) -> Data:
    """``data`` with the options applied that all data sets have."""
    train = _subset(data.train, common.train, "train", common.seed)
    test = _subset(data.test, common.test, "test", common.seed)
    train, test = _shaped(train, common), _shaped(test, common)
    mean, std = data.mean, data.std
    if train.inputs.shape[1] != data.train.inputs.shape[1]:
        mean, std = (), ()  # of channels that are no more
    if common.normalize is not None or not (mean and std):
        how = "data" if common.normalize is None else str(common.normalize)
        train = Split(ordered(how, train.inputs), train.labels)
        test = Split(ordered(how, test.inputs), test.labels)
        mean, std = moments(how, train.inputs)
    data = replace(data, train=train)
    if common.labels is not None:
        data = forgotten(data, common.labels, common.seed)
    return replace(
        data,
        test=test,
        mean=mean,
        std=std,
        shift=data.shift if common.shift is None else common.shift,
        flip=data.flip if common.flip is None else common.flip,
    )


def _shaped(split: Split, common: Common) -> Split:
    """Pictures with the channels and sides that the options say."""
    inputs = split.inputs
    if common.grey:
        inputs = grey(inputs)
    if common.size:
        inputs = resized(inputs, common.size)
    if common.crop:
        inputs = cropped(inputs, common.crop)
    return Split(inputs, split.labels)


def _subset(split: Split, count: int | None, name: str, seed: int) -> Split:
    if count is None or count == len(split):
        return split
    if count > len(split):
        raise UserError(f"{name}={count} asks for more than the {len(split)} rows there are")
    return rows_of(split, spread(split.labels.numpy(), count, seed))


def _know_options(
    name: str, options: Mapping[str, Value], parameters: Mapping[str, inspect.Parameter]
) -> None:
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = {*COMMON, *(k for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY)}
    for key in options:
        if key not in known:
            raise UnknownName(f"data set {name!r} has no option {key!r}; {suggest(key, known)}")


def _reader(written: str, name: str) -> Callable[..., Data]:
    try:
        return DATASETS.get(name)
    except UnknownName:
        spec = reader_of(written)
        if spec:
            raise UserError(
                f"{written!r} is a path without the name of a reader; write {spec}"
            ) from None
        if "/" in name:
            raise UserError(
                f"{written!r} is no path that exists (seen from {os.getcwd()}) and not the name "
                f"of a data set; those are {', '.join(DATASETS.names())}"
            ) from None
        raise


def _stamp(location: str) -> object:
    """Times and sizes of the file, or of the entries of the folder, at ``location``."""
    path = Path(location).expanduser() if location.startswith("~") else Path(location)
    if not location or not os.path.exists(path):
        return None
    entries = sorted(path.iterdir()) if path.is_dir() else [path]
    return tuple((e.name, s.st_mtime_ns, s.st_size) for e in entries for s in [e.lstat()])

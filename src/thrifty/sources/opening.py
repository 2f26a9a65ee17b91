"""What a person writes, turned into sources: a file, a folder of files, ``hf:ORG/REPO``, a network.

In this order: a name of a built-in network is that network; what exists as a path is a path; what
begins with the prefix of a reader goes to that reader; anything else is the name of a network
(``torchvision:alexnet``, ``package.module:factory``).

Of a folder every weight file counts as a network, also those in folders below, except that the
shards of an index are one network and that a folder of one of our runs has only its networks.
Nothing is opened before its turn, and a file that cannot be read does not keep the others from
being read.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from thrifty.errors import UserError
from thrifty.sources import SOURCES, Reader
from thrifty.sources.folders import labels, weight_files
from thrifty.sources.stored import Source

NETWORK = "network"
"""The prefix of the reader that builds networks from their names; it may be left out."""


@dataclass(frozen=True)
class Place:
    """Where one source is.

    Args:
        label: short, and different from those of the other places asked for at once.
        open: opens it; raises UserError if that fails.
    """

    label: str
    open: Callable[[], Source]


@dataclass(frozen=True)
class Bad:
    """A source that could not be opened, and why."""

    label: str
    message: str


def opened(*what: str | Path) -> Iterator[Source | Bad]:
    """Every source that ``what`` stands for, one after another, open until the next is asked for.

    To be gone through with ``for``; when the iterator goes, its source is closed too.

    Raises:
        UserError: ``what`` stands for nothing, or there is but one source and it fails.  Of
            several sources those that fail are given as :class:`Bad`, and the others go on.
    """
    places = expand(*what)
    for place in places:
        try:
            source = place.open()
        except UserError as error:
            if len(places) == 1:
                raise
            yield Bad(place.label, str(error))
            continue
        with source:
            yield source


def only(what: str | Path) -> Source:
    """The one source that ``what`` stands for; close it when you are done.

    Raises:
        UserError: it stands for none or several, or cannot be opened.
    """
    places = expand(what)
    if len(places) > 1:
        names = ", ".join(place.label for place in places[:5])
        raise UserError(f"{str(what)!r} has {len(places):,} networks ({names}, ...); name one")
    return places[0].open()


def expand(*what: str | Path) -> list[Place]:
    """Where the sources are that ``what`` stands for; nothing is opened yet.

    Raises:
        UserError: there is no such file, folder or prefix, or no file of a known kind.
    """
    found: list[Path | Place] = []
    for one in what:
        found += _of_one(one)
    paths = [x for x in found if isinstance(x, Path)]
    names = iter(labels(paths, suffixes()))
    return [x if isinstance(x, Place) else _file(x, next(names)) for x in found]


def reader_of(path: Path) -> Reader | None:
    """The reader of files that are called so, None if there is none."""
    known = [
        (suffix, reader)
        for reader in map(SOURCES.get, SOURCES.names())
        for suffix in reader.suffixes
        if path.name.lower().endswith(suffix)
    ]
    return max(known, key=lambda pair: len(pair[0]))[1] if known else None


def suffixes() -> list[str]:
    """Every suffix that a reader knows."""
    return sorted({s for name in SOURCES.names() for s in SOURCES.get(name).suffixes})


def described_suffixes() -> str:
    """Every suffix, for messages; those of compressed files are told once."""
    plain = [s for s in suffixes() if not s.endswith((".xz", ".zst"))]
    return f"{', '.join(plain)}, and most of them with .xz or .zst behind"


def located(path: str | Path) -> Path:
    """``path`` with ``~`` replaced by the home folder.

    Raises:
        UserError: it is ``~someone`` and there is no such person.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{str(path)!r} is no path: {error}") from None


def _of_one(what: str | Path) -> list[Path | Place]:
    text = str(what)
    if not text.strip():
        raise UserError("an empty text names no source; give a file, a folder or a network")
    if isinstance(what, str) and _is_network(text):
        return [_prefixed(NETWORK, text, text)]
    path = located(what)
    if _exists(path):
        return list(_of_path(path))
    prefix, colon, rest = text.partition(":")
    if colon and isinstance(what, str) and prefix in _prefixes():
        return [_prefixed(prefix, rest, text)]
    if isinstance(what, Path) or _looks_like_a_path(text):
        raise UserError(f"there is no file or folder {text!r} (seen from {Path.cwd()})")
    return [_prefixed(NETWORK, text, text)]


def _of_path(path: Path) -> list[Path]:
    if path.is_dir():
        files = weight_files(path, suffixes())
        if not files:
            raise UserError(
                f"the folder {path} has no weight file, nor has any folder in it; they end in "
                f"{described_suffixes()}"
            )
        return files
    if reader_of(path) is None:
        raise UserError(
            f"{path} is of no known kind of weight file; they end in {described_suffixes()}"
        )
    return [path]


def _file(path: Path, label: str) -> Place:
    def open_it() -> Source:
        reader = reader_of(path)
        if reader is None:
            raise UserError(f"{path} is of no known kind of weight file")
        return replace(reader.open(str(path)), label=label)

    return Place(label, open_it)


def _prefixed(prefix: str, rest: str, text: str) -> Place:
    def open_it() -> Source:
        reader = _prefixes().get(prefix)
        if reader is None:
            raise UserError(f"{text!r} is no file or folder, and no reader for {prefix!r} is there")
        return reader.open(rest)

    return Place(text, open_it)


def _prefixes() -> dict[str, Reader]:
    readers = map(SOURCES.get, SOURCES.names())
    return {reader.prefix: reader for reader in readers if reader.prefix}


def _is_network(text: str) -> bool:
    """Whether a built-in network is called so; asked only of what could be one, for torch is slow
    to import.
    """
    if not text.replace("_", "").replace("-", "").isalnum():
        return False
    from thrifty.nets.architecture import NETS

    return text in NETS


def _looks_like_a_path(text: str) -> bool:
    named = reader_of(Path(text)) is not None
    return named or ("/" in text or "\\" in text) and not (":" in text or "?" in text)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no path can have
        return False

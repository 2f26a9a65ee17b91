"""One network in several files: an index says which tensor lies in which shard.

The index must be right both ways: every tensor it names lies in the shard it names, and the
shards hold no others.  All shards are opened at once, which for mapped files costs no memory.
"""

import os
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path

from thrifty.errors import UserError
from thrifty.sources import SOURCES, Reader
from thrifty.sources.folders import INDEX, weight_map
from thrifty.sources.opening import reader_of
from thrifty.sources.scales import with_scales
from thrifty.sources.stored import Source, Stored
from thrifty.sources.unpickling import PICKLES, tensors_of, unpickled

KINDS = (".safetensors", ".bin")
LISTED = 5
MOST_SHARDS = 1000
"""Each shard is an open file, and a process may open so many."""


def open_sharded(text: str) -> Source:
    """The tensors of all shards that the index at the path ``text`` names.

    Raises:
        UserError: the index is damaged or names files elsewhere, a shard is missing or damaged,
            or index and shards differ.
    """
    index = Path(text)
    by_shard: dict[str, list[str]] = defaultdict(list)
    for name, shard in weight_map(index).items():
        by_shard[shard].append(name)
    if len(by_shard) > MOST_SHARDS:
        raise UserError(f"{index} names {len(by_shard):,} shards; {MOST_SHARDS:,} can be opened")
    with ExitStack() as stack:
        opened = {shard: stack.enter_context(_shard(index, shard)) for shard in sorted(by_shard)}
        for shard, source in opened.items():
            _check_agreement(index, shard, by_shard[shard], source)
        stack = stack.pop_all()
    tensors = [x for source in opened.values() for x in source.tensors]
    scaled, notes = _scaled(tensors, opened)
    return Source(
        label=index.name.removesuffix(INDEX).rpartition(".")[0],
        kind=f"{next(iter(opened.values())).kind}, {len(opened)} shards",
        tensors=scaled,
        nbytes=sum(source.nbytes or 0 for source in opened.values()),
        notes=notes,
        claims=next(iter(opened.values())).claims,
        on_close=stack.close,
    )


def _shard(index: Path, shard: str) -> Source:
    path = index.parent / shard
    if not os.path.isfile(path):  # Path.is_file raises OSError on names that are too long
        raise UserError(
            f"{index} names the shard {ascii(shard)[:100]}, and there is no such file beside it; "
            f"download all shards into one folder"
        )
    reader = reader_of(path)
    if reader is None or not shard.lower().endswith(KINDS):
        raise UserError(
            f"{index} names the shard {ascii(shard)[:100]}; shards end in one of {', '.join(KINDS)}"
        )
    return reader.open(str(path))


def _check_agreement(index: Path, shard: str, said: list[str], source: Source) -> None:
    held = _names(index.parent / shard, source)
    missing = [name for name in said if name not in held]
    extra = held - set(said)
    if missing:
        raise UserError(
            f"{index} says that {_listed(missing)} {_is(missing)} in {shard}, which does not hold "
            f"{_it(missing)}; the shards are of another network, or one is of another version"
        )
    if extra:
        raise UserError(
            f"{index} does not name {_listed(sorted(extra))}, which {_is(extra)} in {shard}; the "
            f"shards are of another network, or one is of another version"
        )


def _names(path: Path, source: Source) -> set[str]:
    """The names in a shard; of a pickle also those that its source counts under another."""
    if path.name.lower().endswith(PICKLES):
        return set(tensors_of(unpickled(path, mapped=True), path))
    return {x.name for x in source.tensors}


def _scaled(
    tensors: list[Stored], opened: Mapping[str, Source]
) -> tuple[tuple[Stored, ...], tuple[str, ...]]:
    """Scales may lie in another shard than their weights, so all are looked through again."""
    result, notes = with_scales(tensors)
    of_shards = (note for source in opened.values() for note in source.notes)
    return result, tuple(dict.fromkeys([*of_shards, *notes]))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(ascii(name[:100]) for name in names[:LISTED]) + more


def _is(names: Collection[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _it(names: Collection[str]) -> str:
    return "it" if len(names) == 1 else "them"


SOURCES.add(
    "sharded",
    Reader(
        about="A network in several files, with the index that says what lies where",
        open=open_sharded,
        suffixes=tuple(f"{kind}{INDEX}" for kind in KINDS),
    ),
)

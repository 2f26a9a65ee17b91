"""Which files of a folder are networks, in what order, and what they are called in tables."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from thrifty.errors import UserError
from thrifty.shown import printable

INDEX = ".index.json"
"""What the index of a sharded network ends in, behind the suffix of its shards."""
MOST_INDEX = 100_000_000
"""Bytes of the longest index that is read."""
MODEL, RECORD, RUN = "model.safetensors.zst", "record.json", "run.json"
"""The network of one step of a run of ours, what marks the step, and what marks the run."""


def weight_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files below ``folder`` that are networks, in the order in which people count.

    Hidden files and folders are left out; a link to a folder is followed, but no folder is
    entered twice.

    Raises:
        UserError: a folder cannot be read.
    """
    found: list[Path] = []
    entered: set[str] = set()

    def told(error: OSError) -> None:
        raise UserError(f"the folder {error.filename} cannot be read: {error.strerror}") from None

    ours = (folder / RUN).is_file()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=told):
        real = os.path.realpath(place)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        if MODEL in names and (ours or RECORD in names):
            names = [MODEL]
        elif ours:
            names = []
        fitting = (n for n in names if n.lower().endswith(tuple(suffixes)) and n[0] != ".")
        found += [Path(place, name) for name in fitting]
    files = [path for path in found if path.is_file()]
    shards = {shard for path in files if path.name.endswith(INDEX) for shard in _shards(path)}
    return sorted((p for p in files if p not in shards), key=lambda p: natural(str(p)))


def labels(paths: Sequence[Path], suffixes: Iterable[str]) -> list[str]:
    """A short name for each path, no two the same.

    It is the file's name without suffix where that is enough, else with the folder, with the
    suffix, or with both.  What cannot be shown in a name is written as an escape.
    """
    paths = [Path(printable(str(path))) for path in paths]
    stems = [_stem(path.name, suffixes) for path in paths]
    most = max((len(path.parts) for path in paths), default=0)
    levels: list[list[str]] = [stems]
    levels.append([_join(p, 1, s) for p, s in zip(paths, stems, strict=True)])
    levels.append([path.name for path in paths])
    levels += [[_join(p, depth, p.name) for p in paths] for depth in range(1, most)]
    counts = [Counter(level) for level in levels]
    return _numbered(
        [
            next((lv[i] for lv, n in zip(levels, counts, strict=True) if n[lv[i]] == 1), str(path))
            for i, path in enumerate(paths)
        ]
    )


def natural(text: str) -> list[tuple[int, int, str]]:
    """A key that sorts ``net2`` before ``net10``."""
    return [
        (0, int(part), "") if part.isdecimal() and len(part) < 1000 else (1, 0, part)
        for part in re.split(r"(\d+)", text)
        if part
    ]


def weight_map(index: Path) -> dict[str, str]:
    """Tensor names to the file names of their shards, from the index of a sharded network.

    Raises:
        UserError: it is no such index, or names a shard outside its folder.
    """
    try:
        if index.stat().st_size > MOST_INDEX:
            raise UserError(f"{index} has more than the {MOST_INDEX:,} bytes that are read")
        said = json.loads(index.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no file {str(index)!r} (seen from {Path.cwd()})") from None
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{index} cannot be read as an index of shards: {error}") from None
    found = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(found, dict) or not found:
        raise UserError(f"{index} has no 'weight_map' from tensors to shards; copy it again")
    for name, shard in found.items():
        plain = isinstance(shard, str) and re.fullmatch(r"[^/\\:\x00]+", shard)
        if not plain or shard in (".", ".."):
            raise UserError(
                f"{index} says that {ascii(name)[:100]} is in {ascii(shard)[:100]}; a shard is a "
                f"file beside the index"
            )
    return found


def _shards(index: Path) -> set[Path]:
    """The shards of an index; none if it is damaged, which is told when it is opened."""
    try:
        return {index.parent / name for name in weight_map(index).values()}
    except UserError:
        return set()


def _stem(name: str, suffixes: Iterable[str]) -> str:
    fitting = [s for s in suffixes if name.lower().endswith(s) and len(s) < len(name)]
    return name[: len(name) - max(map(len, fitting), default=0)]


def _join(path: Path, depth: int, last: str) -> str:
    return "/".join([*path.parts[:-1][-depth:], last]).replace("//", "/")


def _numbered(names: Sequence[str]) -> list[str]:
    """What is there twice, such as a path given twice, is numbered."""
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result

"""Several runs as one front, so that what differs stays apart.

Two runs may hold the same method at the same level and seed, cut from different parents: a
network trained with an incentive and one trained without.  As one method they would be averaged,
as if they were seeds; so each then carries the name of its run.

Networks that were only trained, one way in one run and another way in another (from a teacher and
without), are no seeds of each other either: such a network carries the name of its run itself.

And two runs may begin at networks of other names that are alike: what was trained with an
incentive and without lies in two folders.  Where gates were read in the same layers of both, they
are taken for one network, so that they are shown side by side.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from thrifty.lab.front import Front
from thrifty.lab.records import CONTROL, DENSE, Record

Name = tuple[str, str, str]
"""Model, data and method."""


def combined(fronts: Sequence[Front], folders: Sequence[Path | str]) -> Front:
    """The records and readings of several runs; what is in two of them is taken once.

    Args:
        fronts: one a run.
        folders: where each lies; the same folder may be given twice.
    """
    names = run_names(folders)
    fronts = _alike(_trained_apart(fronts, names))
    apart = _clashing(fronts)
    found: dict[tuple[str, float, str], Record] = {}
    for front, name in zip(fronts, names, strict=True):
        for record in front.records:
            if _method(record) in apart:
                record = replace(record, method=f"{record.method} ({name})")
                found.setdefault((record.key, record.level, name), record)
            else:
                found.setdefault((record.key, record.level, ""), record)
    readings = {
        (name, reading.step): replace(reading, run=name)
        for front, name in zip(fronts, names, strict=True)
        for reading in front.readings
    }
    return Front(
        tuple(found.values()),
        ", ".join(front.where for front in fronts),
        tuple(readings.values()),
    )


def run_names(folders: Sequence[Path | str]) -> list[str]:
    """The last part of each folder, or as many as tell different folders apart.

    Example:
        >>> run_names(["runs/with", "runs/without"])
        ['with', 'without']
    """
    paths = [Path(folder).resolve() for folder in folders]
    most = max((len(path.parts) for path in paths), default=1)
    for count in range(1, most + 1):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return names if paths else []


def _trained_apart(fronts: Sequence[Front], names: Sequence[str]) -> list[Front]:
    """The fronts, networks only trained under another name where others of that name differ."""
    keys: dict[tuple[str, str, int], set[str]] = {}
    for front in fronts:
        for r in front.records:
            if r.method == DENSE:
                keys.setdefault((r.model, r.data, r.seed), set()).add(r.key)
    differ = {(model, data) for (model, data, _), found in keys.items() if len(found) > 1}
    made = []
    for front, name in zip(fronts, names, strict=True):
        more = {(r.model, r.data) for r in front.records if r.method not in (DENSE, CONTROL)}
        more |= {(reading.model, reading.data) for reading in front.readings}
        records = (
            replace(r, model=f"{r.model} ({name.replace('/', ' ')})")
            if (r.model, r.data) in differ - more
            else r
            for r in front.records
        )
        made.append(replace(front, records=tuple(records)))
    return made


def _alike(fronts: Sequence[Front]) -> list[Front]:
    """The fronts, networks whose gates are in the same layers under one name."""
    groups: dict[tuple[object, ...], dict[str, None]] = {}
    for reading in (r for front in fronts for r in front.readings if r.values):
        layers = frozenset((name, len(found)) for name, found in reading.values.items())
        groups.setdefault((reading.data, layers), {})[reading.model] = None
    called = {
        (model, str(place[0])): " + ".join(dict.fromkeys(map(_last, models)))
        for place, models in groups.items()
        if len(models) > 1
        for model in models
    }
    return [
        replace(
            front,
            records=tuple(
                replace(r, model=called.get((r.model, r.data), r.model)) for r in front.records
            ),
            readings=tuple(
                replace(r, model=called.get((r.model, r.data), r.model)) for r in front.readings
            ),
        )
        for front in fronts
    ]


def _last(model: str) -> str:
    """A network without the folder that it lies in."""
    return model.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _clashing(fronts: Sequence[Front]) -> set[Name]:
    """The methods that two different networks of one level and seed are called by."""
    keys: dict[tuple[Name, float, int], set[str]] = {}
    for front in fronts:
        for record in front.records:
            if record.method not in (DENSE, CONTROL):
                place = (_method(record), record.level, record.seed)
                keys.setdefault(place, set()).add(record.key)
    return {place[0] for place, found in keys.items() if len(found) > 1}


def _method(record: Record) -> Name:
    return record.model, record.data, record.method

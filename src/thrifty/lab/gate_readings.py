"""What gates said of each channel, read from the steps of a run: what heat maps are drawn from.

A step in which a network was trained with gates, or measured by them, holds ``gates.safetensors``:
scores by the name of the weight whose channels they are of, and in its metadata the gate.  Read
here are those of gates that score channels on a scale of 0 to 1, for only they can be compared
from block to block and from run to run; scores of single weights, scales of batch normalisation
and files of before there was metadata are passed over.

A damaged file costs a picture and nothing else.  So it is no error: it becomes a reading without
values that says what is wrong with it.
"""

import inspect
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thrifty.errors import UserError
from thrifty.lab.records import DENSE
from thrifty.registry import Spec, parse_spec
from thrifty.sources.formats.safetensors import open_safetensors
from thrifty.sources.header import LENGTH_BYTES, header_length
from thrifty.sources.stored import Source

GATES_FILE = "gates.safetensors"
MOST_HEADER, MOST_CHANNELS = 1 << 20, 1 << 20
"""Bytes of a header and channels of a network, beyond which nothing is read."""
FLOATS = ("F16", "F32", "F64")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The scores of one network's channels, 0 (closed, goes first) to 1 (open)."""

    run: str
    """The name of the run's folder."""
    step: str
    """The folder of the step, within the run."""
    model: str
    data: str
    method: str
    """``dense`` for the dense parent, else the method that trained the gates."""
    gate: str
    """The gate with its options, such as ``highway?strength=0.01``."""
    seed: int
    strength: float | None = None
    """How strong the penalty on open gates was in training; ``None`` if the gate has none."""
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Name of a weight -> the score of each of its output channels, in network order."""
    problem: str = ""
    """Why there are no values, and what to do; empty if there are."""


def read_readings(
    root: Path, model: str, data: str, records: Iterable[Any] = ()
) -> tuple[Reading, ...]:
    """The readings of every parent in the folder of a run, seed by seed.

    Networks that were cut have none, and dense parents that ``records`` does not know (of the
    same folder, under an earlier recipe) are passed over.

    Args:
        root: the folder of the run.
        model: the network, as ``run.json`` names it.
        data: the data set, as ``run.json`` names it.
        records: what was measured in it.

    Returns:
        A reading a step; one that is damaged has no values and says so.
    """
    run, records = root.resolve().name, list(records)
    known = {r.key for r in records if r.method == DENSE}
    order = [name for r in records[:1] for name in r.layers]
    found = []
    for path in sorted(root.glob(f"steps/*/{GATES_FILE}"), key=lambda p: natural(p.parent.name)):
        about = _about(path.parent)
        if about is None or about["level"] > 0:
            continue
        if about["method"] == DENSE and about["key"] not in known:
            continue
        common: dict[str, Any] = {
            "run": run, "step": path.parent.name, "model": model, "data": data,
            "method": str(about["method"]).removesuffix(" gated"), "seed": about["seed"],
        }  # fmt: skip
        try:
            said = _read(path)
        except UserError as error:
            again = f"{error}; remove {path.parent} and run again"
            where = "" if str(path) in str(error) else f"{path}: "
            found.append(Reading(**common, gate="", problem=where + again))
            continue
        if said is not None:
            gate, values = said
            names = in_order(values, order)
            strength = _strength(parse_spec(gate))
            ordered = {name: values[name] for name in names}
            found.append(Reading(**common, gate=gate, strength=strength, values=ordered))
    return tuple(found)


def in_order(names: Iterable[str], order: Iterable[str]) -> list[str]:
    """``names`` as they come in ``order``; those that are not in it after, 2 before 10."""
    places = {name: place for place, name in enumerate(order)}
    return sorted(names, key=lambda name: (places.get(name, len(places)), natural(name)))


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts ``blocks.2`` before ``blocks.10``."""
    parts = re.split(r"(\d{1,18})", text, flags=re.ASCII)
    return [(int(part), "") if place % 2 else (-1, part) for place, part in enumerate(parts)]


def _about(folder: Path) -> dict[str, Any] | None:
    """What the record of a step says; ``None`` if the step is not done or says something else."""
    try:
        said = json.loads((folder / "record.json").read_text())
        kinds: dict[str, Any] = {"key": str, "method": str, "level": (int, float), "seed": int}
        return said if all(isinstance(said[k], kind) for k, kind in kinds.items()) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _read(path: Path) -> tuple[str, dict[str, tuple[float, ...]]] | None:
    """The gate and the scores of a file; ``None`` if they are none that can be compared.

    Raises:
        UserError: the file is damaged, or it says what no gate says.
    """
    with _opened(path) as source:
        gate = source.claims.get("gate")
        if gate is None or not _compares(parse_spec(gate)):
            return None
        if any(len(t.shape) != 1 for t in source.tensors):
            return None  # scores of single weights
        channels = sum(t.count for t in source.tensors)
        if not 0 < channels <= MOST_CHANNELS:
            raise UserError(
                f"{path}: scores of {channels:,} channels, and 1 to {MOST_CHANNELS:,} can be read"
            )
        return gate, {t.name: _values(path, t) for t in source.tensors}


def _opened(path: Path) -> Source:
    try:
        with path.open("rb") as file:
            first, size = file.read(LENGTH_BYTES), path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if header_length(first, size, str(path)) > MOST_HEADER:
        raise UserError(f"{path}: its header is longer than that of any file of scores")
    return open_safetensors(str(path))


def _values(path: Path, stored: Any) -> tuple[float, ...]:
    if stored.dtype not in FLOATS:
        raise UserError(f"{path}: {stored.name} is of {stored.dtype}, and scores are of F32")
    values = tuple(float(v) for v in stored.whole().tolist())
    wrong = next((v for v in values if not 0 <= v <= 1), None)  # NaN is not within either
    if wrong is not None:
        raise UserError(f"{path}: {stored.name} has the score {wrong:g}, and this gate's are 0..1")
    return values


def _compares(spec: Spec) -> bool:
    """Whether a gate scores channels on a scale of 0 to 1, on which thresholds mean something."""
    from thrifty.pruning.gates import GATES, Gate

    if spec.name not in GATES:
        return False
    found: Any = GATES.get(spec.name)
    thresholds = getattr(found, "cutoff", Gate.cutoff) is not Gate.cutoff
    return thresholds and getattr(found, "unit", "") == "channel"


def _strength(spec: Spec) -> float | None:
    """The option ``strength`` of a gate, or what it is where the option is not given."""
    from thrifty.pruning.gates import GATES

    given: Any = spec.options.get("strength")
    if given is None:
        option = inspect.signature(GATES.get(spec.name)).parameters.get("strength")
        given = option.default if option is not None else None
    plain = isinstance(given, int | float) and not isinstance(given, bool)
    return float(given) if plain and math.isfinite(given) else None

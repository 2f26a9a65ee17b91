"""Networks of other people, or of files of their own, as a zoo.

Taken are the zoos that ModelZoos publishes, as folders of Ray Tune (:mod:`thrifty.zoo.trials`),
and folders of weight files of any kind that ``thrifty.load`` reads tensors from.  Models with the
same tensors and the same network make a stack; of a network that is unknown the tensors are kept
and nothing is built.  Nothing of a file is run.

Work goes segment by segment, and what is done is not done again: an import that was killed goes
on where it was.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from thrifty.errors import UserError
from thrifty.nets.reading import SUFFIXES, header_of, read_weights
from thrifty.nets.stored import architecture_in
from thrifty.registry import parse_spec
from thrifty.sources.folders import labels, weight_files
from thrifty.zoo.exporting import said
from thrifty.zoo.folder import Folder
from thrifty.zoo.index import rebuild, write_rows
from thrifty.zoo.shards import DTYPES, MOST_MODELS, write_shard, write_sparse_shard
from thrifty.zoo.trials import Network, Trial, cut, find_trials

MOST_BYTES = 1 << 28
"""Bytes of a shard, about: larger models are fewer in one."""
Tell = Callable[[Mapping[str, Any]], None]


class Origin(Protocol):
    """One model somewhere: its checkpoints and what is known of it."""

    @property
    def label(self) -> str:
        """What it is called in messages, and in the column ``source``."""
        ...

    @property
    def checkpoints(self) -> Mapping[int, Path]:
        """Files by epoch, in order."""
        ...

    @property
    def hyper(self) -> Mapping[str, Any]:
        """What it was trained with."""
        ...

    @property
    def parent(self) -> int | None:
        """Of a twin the number of its original."""
        ...

    def figures(self, epoch: int) -> Mapping[str, float]:
        """What was measured."""
        ...

    def read(self, epoch: int) -> Mapping[str, Tensor]:
        """The tensors."""
        ...

    def network(self, tensors: Mapping[str, Tensor]) -> Network:
        """What it is."""
        ...


@dataclass(frozen=True)
class Imported:
    """What was taken, and what was left out and why."""

    models: int
    checkpoints: int
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        done = f"{self.models:,} models with {self.checkpoints:,} checkpoints imported"
        return said(done, self.left_out)


class Known(NamedTuple):
    """A model whose first checkpoint was read."""

    id: int
    origin: Origin
    network: Network
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    sparse: bool


class WeightFile:
    """A weight file as a model with one checkpoint, at epoch 0."""

    hyper: Mapping[str, Any] = {}
    parent = None

    def __init__(self, path: Path, label: str):
        self.path, self.label = path, label
        self.checkpoints = {0: path}
        self._metadata: Mapping[str, str] = {}

    def figures(self, epoch: int) -> Mapping[str, float]:
        """Nothing: a file says none."""
        return {}

    def read(self, epoch: int) -> Mapping[str, Tensor]:
        """The tensors of the file."""
        tensors, self._metadata = read_weights(self.path)
        return tensors

    def network(self, tensors: Mapping[str, Tensor]) -> Network:
        """What the header of a file of ours says; else a network without a name."""
        names = {name: name for name in tensors}
        header = header_of(self._metadata, self.path)
        if header is None or header.get("model") is None:
            return Network("", None, None, names)
        said = architecture_in(self._metadata, self.path)
        return Network(said.model, said.shape, said.classes, names)


def import_zoo(
    place: Path | str,
    out: Path | str,
    *,
    epochs: Collection[int] | None = None,
    tell: Tell | None = None,
) -> Imported:
    """Make the zoo ``out`` of the models below ``place``.

    Args:
        place: a folder of trials of Ray Tune, or of weight files.
        out: a new folder, or that of an import that was killed.
        epochs: checkpoints to take; all if ``None``.
        tell: called with a dictionary of figures after each segment.

    Raises:
        UserError: ``place`` has no models that can be read, or holds originals and twins at once;
            or ``out`` is another zoo.  Single models that cannot be read are left out, and said.
    """
    place, folder = Path(place), Folder(out)
    origins = _origins(place)
    left_out: list[str] = []
    known = list(_known(origins, epochs, left_out))
    if not known:
        raise UserError(f"{place}: no model could be read; {left_out[0]}")
    twins = {each.sparse for each in known}
    if len(twins) > 1:
        raise UserError(
            f"{place} holds originals and twins by variational dropout; import each into a zoo of "
            f"its own"
        )
    folder.prepare(_mark(known, twins.pop()))
    done = 0
    with folder.lock():
        for number, stack in enumerate(_stacks(known)):
            done += _write(folder, f"{number:04d}", stack, epochs, left_out, tell)
        rebuild(folder.root)
    return Imported(len(known), done, tuple(left_out))


def _origins(place: Path) -> list[Origin]:
    if not place.is_dir():
        what = "no folder" if place.exists() else "not there"
        raise UserError(
            f"{place} is {what}; give the folder of trials that a published zoo unpacks to, or one "
            f"of weight files"
        )
    trials = find_trials(place)
    if trials:
        return [Trial(folder) for folder in trials]
    paths = weight_files(place, SUFFIXES)
    if not paths:
        raise UserError(
            f"{place} has no checkpoint_NNNNNN/checkpoints of Ray Tune, and no files "
            f"{', '.join(SUFFIXES)}; a published zoo is imported from its raw zip, unpacked"
        )
    named = labels(paths, SUFFIXES)
    return [WeightFile(path, label) for path, label in zip(paths, named, strict=True)]


def _known(
    origins: Sequence[Origin], epochs: Collection[int] | None, left_out: list[str]
) -> Iterator[Known]:
    """In place: adds to ``left_out`` what cannot be read."""
    parents = [origin.parent for origin in origins]
    own = [p for p in parents if p is not None]
    by_parent = len(own) == len(parents) == len(set(own))
    for number, origin in enumerate(origins):
        try:
            first = next((e for e in origin.checkpoints if epochs is None or e in epochs), None)
            if first is None:
                raise UserError("it has no checkpoint of the epochs asked for")
            tensors = origin.read(first)
            network = origin.network(tensors)
        except UserError as error:
            left_out.append(f"{origin.label}: {error}")
            continue
        shapes = _shapes(tensors, network)
        sparse = any(n.endswith("log_sigma2") and n not in network.names for n in tensors)
        yield Known(own[number] if by_parent else number, origin, network, shapes, sparse)


def _shapes(
    tensors: Mapping[str, Tensor], network: Network
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((ours, tuple(tensors[name].shape)) for name, ours in network.names.items())


def _mark(known: Sequence[Known], twins: bool) -> dict[str, Any]:
    said = [[each.id, each.origin.label, list(each.origin.checkpoints)] for each in known]
    networks = {
        each.network.model: {
            "spec": each.network.model,
            "shape": each.network.shape,
            "classes": each.network.classes,
        }
        for each in known
        if each.network.model
    }
    return {
        "kind": "twins" if twins else "models",
        "recipe": hashlib.sha256(repr(said).encode()).hexdigest(),
        "data": None,
        "networks": list(networks.values()),
        "imported": True,
    }


def _stacks(known: Sequence[Known]) -> Iterator[list[Known]]:
    """Models of one network and the same tensors, as many as a shard takes."""
    groups: dict[object, list[Known]] = {}
    for each in known:
        network = each.network
        key = (network.model, network.shape, network.classes, each.shapes)
        groups.setdefault(key, []).append(each)
    for group in groups.values():
        size = sum(4 * torch.Size(shape).numel() for _, shape in group[0].shapes)
        most = max(1, min(MOST_MODELS, MOST_BYTES // max(size, 1)))
        yield from (group[at : at + most] for at in range(0, len(group), most))


def _write(
    folder: Folder,
    stack: str,
    members: Sequence[Known],
    epochs: Collection[int] | None,
    left_out: list[str],
    tell: Tell | None,
) -> int:
    """The segments of a stack that are not done; how many checkpoints the stack has then."""
    every = sorted({e for each in members for e in each.origin.checkpoints})
    count = 0
    for epoch in every:
        if epochs is not None and epoch not in epochs:
            continue
        if folder.done(stack, epoch):
            count += sum(epoch in each.origin.checkpoints for each in members)
            continue
        read = [r for each in members if (r := _read(each, epoch, left_out)) is not None]
        if read:
            _segment(folder, stack, epoch, read)
            count += len(read)
        if tell is not None:
            tell({"stack": stack, "epoch": epoch, "models": len(read)})
    return count


class _Read(NamedTuple):
    known: Known
    tensors: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]


def _read(each: Known, epoch: int, left_out: list[str]) -> _Read | None:
    """One checkpoint under our names.  In place: adds to ``left_out`` why there is none."""
    if epoch not in each.origin.checkpoints:
        return None
    try:
        tensors = each.origin.read(epoch)
        names = each.network.names
        if set(names) - set(tensors) or _shapes(tensors, each.network) != each.shapes:
            raise UserError("it has other tensors than its first checkpoint")
        masks = {names[n]: m for n, m in cut(tensors).items()} if each.sparse else {}
        return _Read(each, {o: _stored(tensors[n]) for n, o in names.items()}, masks)
    except UserError as error:
        left_out.append(f"{each.origin.label}, epoch {epoch}: {error}")
        return None


def _stored(x: Tensor) -> Tensor:
    """As a shard holds it: numbers that numpy has a type for."""
    if str(x.dtype).removeprefix("torch.") in DTYPES.values():
        return x
    return x.float() if x.is_floating_point() else x.long()


def _segment(folder: Folder, stack: str, epoch: int, read: Sequence[_Read]) -> None:
    first = read[0].known
    metadata = {
        "stack": stack,
        "epoch": epoch,
        "first": first.id,
        "model": first.network.model,
        "shape": first.network.shape,
        "classes": first.network.classes,
    }
    tensors = {n: torch.stack([r.tensors[n] for r in read]) for n in read[0].tensors}
    masks = {n: torch.stack([r.masks[n] for r in read]) for n in read[0].masks}
    path = folder.shard(stack, epoch)
    if masks:
        write_sparse_shard(path, tensors, masks, metadata)
    else:
        write_shard(path, tensors, metadata)
    write_rows(folder.root, stack, epoch, _columns(read, epoch))


def _columns(read: Sequence[_Read], epoch: int) -> dict[str, object]:
    rows = [_row(each, epoch) for each in read]
    return {
        name: [row.get(name) for row in rows] for name in dict.fromkeys(n for r in rows for n in r)
    }


def _row(read: _Read, epoch: int) -> dict[str, Any]:
    known = read.known
    spec = parse_spec(known.network.model)
    row: dict[str, Any] = {"model": known.id, "source": known.origin.label, "net": spec.name}
    row |= {k: ("" if v is None and k in _TEXTS else v) for k, v in known.origin.hyper.items()}
    row |= known.origin.figures(epoch)
    row["diverged"] = not all(bool(x.isfinite().all()) for x in read.tensors.values())
    if read.masks:
        weights = {n.rpartition(".")[0]: m for n, m in read.masks.items() if n.endswith(".weight")}
        layers = {name: [int(m.sum()), m.numel()] for name, m in weights.items()}
        kept, whole = (sum(counts[i] for counts in layers.values()) for i in (0, 1))
        row |= {"method": "variational", "asked": None, "sparsity": 1 - kept / whole}
        row["layers"] = layers
    return row


_TEXTS = ("act", "init", "optimizer")

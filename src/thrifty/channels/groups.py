"""Which slices of which tensors live and die together, and why.

A unit is what can be removed by itself: often one channel with the filter that makes it, its
normalisation and every column that reads it.  A group is the units that touch the same
dimensions of the same tensors.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thrifty.channels.labels import compact, varying
from thrifty.channels.trace import Axis, Trace
from thrifty.errors import UserError
from thrifty.registry import suggest
from thrifty.shown import Shown

Kept = Mapping[str, Tensor]
"""Group name -> bool (units,), True is kept; groups that are not named stay whole."""


class Member(NamedTuple):
    """One dimension of one tensor in a group, or all of its elements."""

    tensor: str
    dim: int
    """-1: the elements, in the order of memory, which become zero and keep their place."""
    unit: Tensor
    """(size of the dimension,) int64: the unit that each index belongs to, -1 for none."""
    role: str
    """out, in, scale, shift, stat or each: what the dimension is to the channels.

    ``out`` makes them (rows of a convolution or linear layer), ``in`` reads them, ``scale`` and
    ``shift`` are the weight and bias of a norm or the bias of a layer, ``stat`` its running
    statistics, ``each`` multiplies or adds to every channel by itself (depthwise filters, layer
    scales, embeddings of positions).
    """

    @property
    def layer(self) -> str:
        """The module that holds the tensor."""
        return self.tensor.rpartition(".")[0]


class Group(NamedTuple):
    """Units that touch the same tensors."""

    name: str
    """The first layer that makes these channels, such as ``layer1.0.conv1``."""
    units: int
    members: tuple[Member, ...]
    whole: str | None
    """Why it stays whole; None if it may be cut."""
    joins: tuple[str, ...]
    """The operations that tie its layers, such as ``add in layer1.0``."""

    def of(self, role: str) -> tuple[Member, ...]:
        """The members with that role."""
        return tuple(m for m in self.members if m.role == role)

    @property
    def width(self) -> int:
        """Channels of the layer that the group is named by."""
        first = self.of("out")[0]
        return int((first.unit >= 0).sum())


class Heads(NamedTuple):
    """A dimension of units whose size the code of a module knows, such as the heads."""

    module: str
    group: str
    unit: Tensor
    """(heads,) the unit of each."""
    size: int
    """Elements of a head."""


class Product(NamedTuple):
    """A product of two tensors that both depend on the input, as attention has."""

    macs: float
    """Multiply-adds for one input."""
    dims: tuple[tuple[tuple[str, Tensor], ...], ...]
    """For every dimension that may lose some: (group, unit of each index or -1), one or more."""

    def left(self, kept: Kept) -> float:
        """Multiply-adds with only those units kept."""
        macs = self.macs
        for parts in self.dims:
            alive = torch.ones(len(parts[0][1]), dtype=torch.bool)
            for group, units in parts:
                if group in kept:
                    alive &= (units < 0) | kept[group].cpu()[units.clamp_min(0)]
            macs *= float(alive.double().mean())
        return macs


@dataclass(frozen=True)
class Groups(Shown):
    """Every group of a network, in the order in which its layers run."""

    groups: tuple[Group, ...]
    heads: tuple[Heads, ...] = ()
    uses: Mapping[str, float] = field(default_factory=dict)
    """Weight -> how often each of its elements multiplies for one input."""
    norm_after: Mapping[str, str | None] = field(default_factory=dict)
    """Weight -> the running mean that its output goes into at once, and nowhere else."""
    products: tuple[Product, ...] = ()
    training_only: tuple[str, ...] = ()
    """Modules that run in training only, whose channels are followed as all others."""
    notes: tuple[str, ...] = ()
    """What a reader should know of the whole network."""

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups that may be cut."""
        return tuple(g for g in self.groups if g.whole is None)

    def __getitem__(self, name: str) -> Group:
        for group in self.groups:
            if group.name == name:
                return group
        raise UserError(f"no group is called {name!r}; {suggest(name, [g.name for g in self])}")

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def to_dict(self) -> dict[str, Any]:
        """The groups, and what is to be said of all."""
        return {"groups": self.to_rows(), "notes": list(self.notes)}

    def to_rows(self) -> list[dict[str, Any]]:
        """A row a group."""
        return [
            {
                "group": g.name,
                "units": g.units,
                "channels": g.width,
                "layers": ", ".join(dict.fromkeys(m.layer for m in g.of("out"))),
                "read by": ", ".join(dict.fromkeys(m.layer for m in g.of("in"))),
                "because": "; ".join(g.joins),
                "whole": g.whole or "",
            }
            for g in self.groups
        ]


def grouped(trace: Trace) -> Groups:
    """The groups that a settled trace shows."""
    roots = trace.ties.all_roots()
    whole = _reasons(trace)
    touching: dict[int, list[int]] = defaultdict(list)
    rooted = []
    for number, axis in enumerate(trace.axes):
        found = torch.from_numpy(roots[axis.start : axis.start + axis.size])
        rooted.append(found)
        if (axis.tensor, axis.dim) in trace.roles:
            for root in sorted(set(found.tolist())):
                touching[root].append(number)
    sets: dict[tuple[tuple[int, ...], bool], list[int]] = defaultdict(list)
    for root, axes in touching.items():
        if any(_role(trace, trace.axes[a]) == "out" for a in axes):
            sets[tuple(axes), root in whole].append(root)
    joins = defaultdict(list)
    for atom, because in trace.ties.joins:
        joins[int(roots[atom])].append(because)
    built = [_group(trace, key[0], ids, rooted, whole, joins) for key, ids in sets.items()]
    order = sorted(range(len(built)), key=lambda i: (*sets,)[i])  # of equal ones the free first
    named = _named([built[i] for i in order])
    unit_of = {
        root: (group.name, number)
        for i, group in zip(order, named, strict=True)
        for number, root in enumerate([*sets.values()][i])
    }
    products = tuple(_product(trace, macs, ids, unit_of) for macs, ids in trace.products)
    return Groups(
        tuple(named),
        _heads(trace, unit_of),
        trace.uses,
        trace.norm_after,
        products,
        trace.training_only,
        tuple(trace.notes),
    )


def _reasons(trace: Trace) -> dict[int, str]:
    """Root -> why it stays; a reason worth telling wins over one that is not."""
    found: dict[int, str] = {}
    for atoms, why in trace.ties.fixed:
        for root in set(trace.ties.roots(atoms).tolist()):
            if not found.get(root):
                found[root] = why
    return found


def _role(trace: Trace, axis: Axis) -> str:
    return trace.roles.get((axis.tensor, axis.dim), "each")


def _group(
    trace: Trace,
    axes: tuple[int, ...],
    ids: list[int],
    rooted: list[Tensor],
    whole: Mapping[int, str],
    joins: Mapping[int, list[str]],
) -> Group:
    highest = max(int(rooted[a].max()) for a in axes) + 1
    lookup = torch.full((max(highest, *(i + 1 for i in ids)),), -1, dtype=torch.int64)
    lookup[torch.tensor(ids)] = torch.arange(len(ids))
    members = tuple(
        Member(axis.tensor, axis.dim, lookup[rooted[a]], _role(trace, axis))
        for a in axes
        for axis in [trace.axes[a]]
    )
    first = next(m for m in members if m.role == "out")
    reason = next((whole[i] for i in ids if i in whole and whole[i]), None)
    if reason is None and ids[0] in whole:
        reason = "they read the input of the network, or what no layer makes"
    if reason is None and len(ids) == 1:
        reason = "all its channels are tied into one unit"
    because = dict.fromkeys(b for i in ids for b in joins.get(i, ()))
    return Group(first.layer or first.tensor, len(ids), members, reason, tuple(because)[:12])


def _named(groups: list[Group]) -> list[Group]:
    """The groups with names that are all different."""
    seen: dict[str, int] = defaultdict(int)
    out = []
    for group in groups:
        seen[group.name] += 1
        number = seen[group.name]
        out.append(group if number == 1 else group._replace(name=f"{group.name}#{number}"))
    return out


def _alike(lines: Tensor) -> bool:
    """Whether every line (n, anything) holds one number."""
    return bool((lines == lines[:, :1]).all())


def _product(
    trace: Trace, macs: float, facets: list[Tensor], unit_of: Mapping[int, tuple[str, int]]
) -> Product:
    """A product by the units that its dimensions are made of."""
    found: dict[int, list[tuple[str, Tensor]]] = defaultdict(list)
    for ids in facets:
        roots = compact(
            torch.from_numpy(trace.ties.roots(ids.reshape(-1).numpy())).reshape(ids.shape)
        )
        if len(varying(roots)) == 1:
            of = [unit_of.get(root, ("", -1)) for root in roots.reshape(-1).tolist()]
            for group in {name for name, _ in of} - {""}:
                units = torch.tensor([number if name == group else -1 for name, number in of])
                found[varying(roots)[0]].append((group, units))
    return Product(macs, tuple(tuple(parts) for parts in found.values()))


def _heads(trace: Trace, unit_of: Mapping[int, tuple[str, int]]) -> tuple[Heads, ...]:
    """What views took apart, where one dimension is left in which units differ."""
    found = []
    for split in trace.splits:
        shape = split.ids.shape
        roots = torch.from_numpy(trace.ties.roots(split.ids.reshape(-1).numpy())).reshape(shape)
        for dim in range(roots.dim()):
            line = roots.movedim(dim, 0).reshape(shape[dim], -1)
            if len(set(line.reshape(-1).tolist())) == shape[dim] and _alike(line):
                units = [unit_of.get(int(r), ("", -1)) for r in line[:, 0]]
                names = {name for name, _ in units}
                if len(names) == 1 and "" not in names:
                    last = shape[-1] if dim != len(shape) - 1 else 1
                    unit = torch.tensor([u for _, u in units])
                    found.append(Heads(split.module, names.pop(), unit, int(last)))
    return tuple(found)

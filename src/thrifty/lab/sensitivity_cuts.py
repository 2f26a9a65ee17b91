"""Cut some layers of a network and leave the others whole, as a run of the same method would."""

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from thrifty.channels.costs import Sizes
from thrifty.channels.finding import groups as find_groups
from thrifty.channels.groups import Kept
from thrifty.channels.shrinking import surgery
from thrifty.data import Data
from thrifty.errors import UserError
from thrifty.lab.gating import example_of
from thrifty.lab.rules import RULES
from thrifty.pruning import masks as _masks
from thrifty.pruning.allocation import explicit, matching
from thrifty.pruning.criteria import CRITERIA
from thrifty.pruning.evidence import gather
from thrifty.pruning.granularity import granularity
from thrifty.pruning.layers import prunable
from thrifty.pruning.methods import METHODS
from thrifty.pruning.pruning import Cut, batches, score
from thrifty.pruning.select import top
from thrifty.pruning.structured import ChannelCut, choose, scores


class Part(NamedTuple):
    """A layer that may be cut."""

    units: int
    weights: int
    """Prunable weights that its units hold."""
    makes: tuple[str, ...] = ()
    """Layers that make its channels."""


class Result(NamedTuple):
    """A network in which some layers are cut."""

    model: nn.Module
    gone: float
    """Share of the units of those layers."""
    removed: int
    """Prunable weights that became zero or are gone."""


class Cutter(Protocol):
    """Cuts layers of one network."""

    parts: dict[str, Part]
    whole: dict[str, str]
    """Layers that stay as they are, and why."""

    def cut(self, layers: Mapping[str, float]) -> contextlib.AbstractContextManager[Result]:
        """The network with those layers cut to those sparsities, for the time of a block."""


def cutter(
    model: nn.Module, method: str, data: Data, *, keep: tuple[str, ...], round: int, seed: int
) -> Cutter:
    """What cuts the layers of ``model`` as ``method`` does.

    Raises:
        UserError: the method is several, or finds nothing to cut.
    """
    if method == RULES:
        raise UserError(
            "the method rules is several methods; measure the sensitivity to one of them, such as "
            "l1_filter"
        )
    kind = Channels if METHODS.get(method).removes == "channels" else Weights
    return kind(model, method, data, keep, round, seed)


class Weights:
    """Weights of a tensor become zero; the network is changed for the block and put back."""

    def __init__(
        self,
        model: nn.Module,
        method: str,
        data: Data,
        keep: tuple[str, ...],
        round: int,
        seed: int,
    ):
        self._model, self._data, self._seed = model, data, seed
        self._how = Cut.of(method)
        tensors = prunable(model)
        exempt = set(matching(keep, tensors)) if keep else set()
        self.whole = dict.fromkeys((n for n in tensors if n in exempt), "keep= says so")
        self._tensors = {n: p for n, p in tensors.items() if n not in exempt}
        if not self._tensors:
            raise UserError(f"keep={list(keep)} exempts every layer; nothing is left to try")
        units = granularity(self._how.granularity)
        self.parts = {
            n: Part(units.pool(p.detach().float()).numel(), p.numel())
            for n, p in self._tensors.items()
        }

    @functools.cached_property
    def _scores(self) -> dict[str, Tensor]:
        """Of every unit, -inf where it is zero already."""
        rule = CRITERIA.get(self._how.criterion)
        given = batches(self._data, self._model)
        layers = gather(self._model, rule.needs, given, self._seed, self._tensors)
        found = score(layers, self._how.criterion, self._how.granularity)
        units = granularity(self._how.granularity)
        there = {
            n: units.pool(m.float()) == 0
            for n, m in _masks.of_zeros(self._model).items()
            if n in found
        }
        return {
            n: s.masked_fill(there[n], -math.inf) if n in there else s for n, s in found.items()
        }

    @contextlib.contextmanager
    def cut(self, layers: Mapping[str, float]) -> Iterator[Result]:
        """See :class:`Cutter`."""
        chosen = {n: self._scores[n] for n in layers}
        counts = explicit(chosen, layers)
        units = granularity(self._how.granularity)
        before = {n: self._tensors[n].detach().clone() for n in layers}
        try:
            with torch.no_grad():
                for name, scored in chosen.items():
                    mask = units.expand(top(scored, counts[name]), self._tensors[name])
                    self._tensors[name].masked_fill_(~mask, 0.0)
            removed = sum(
                int((self._tensors[n] == 0).sum() - (before[n] == 0).sum()) for n in layers
            )
            total = sum(s.numel() for s in chosen.values())
            yield Result(self._model, 1 - sum(counts.values()) / total, removed)
        finally:
            with torch.no_grad():
                for name, value in before.items():
                    self._tensors[name].copy_(value)


class Channels:
    """Channels are removed from a copy, and the constants they sent folded into what is left."""

    def __init__(
        self,
        model: nn.Module,
        method: str,
        data: Data,
        keep: tuple[str, ...],
        round: int,
        seed: int,
    ):
        self._model, self._data, self._seed = model, data, seed
        self._how = ChannelCut.of(method, allocation="explicit", round=round)
        self._example = example_of(data, next(model.parameters()).device)
        self.groups = find_groups(model, self._example, keep)
        self._sizes, self._names = Sizes(model, self.groups), prunable(model)
        self.whole = {g.name: g.whole for g in self.groups if g.whole is not None}
        for group in self.groups.free:
            if not any(m.role in self._how.members for m in group.members):
                self.whole[group.name] = f"it has nothing that {method} scores"
        free = [g for g in self.groups.free if g.name not in self.whole]
        if not free:
            reasons = dict.fromkeys(self.whole.values())
            why = "; ".join(
                f"{reason} ({', '.join([n for n, r in self.whole.items() if r == reason][:4])})"
                for reason in reasons
            )
            raise UserError(f"{method} finds no channels that may go: {why}")
        self.parts = {
            g.name: Part(
                g.units,
                self._gone({g.name: torch.zeros(g.units, dtype=torch.bool)}),
                tuple(dict.fromkeys(m.layer for m in g.of("out"))),
            )
            for g in free
        }

    @functools.cached_property
    def _scores(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = scores(
            self._model, self.groups, self._how, data=self._data, seed=self._seed
        )
        return found

    def _gone(self, kept: Kept) -> int:
        """Prunable weights that are gone when those units alone are kept."""
        left = self._sizes.left(kept)
        return sum(p.numel() - left[n] for n, p in self._names.items())

    @contextlib.contextmanager
    def cut(self, layers: Mapping[str, float]) -> Iterator[Result]:
        """See :class:`Cutter`."""
        chosen = {n: self._scores[n] for n in layers}
        how = replace(self._how, layers=layers)
        kept = choose(self.groups, chosen, lambda _: 0.0, 0.0, how)
        small = self._model
        if not all(bool(k.all()) for k in kept.values()):
            small = surgery(
                self._model, example=self._example, kept=kept, groups=self.groups, check=False
            ).model
        stays = sum(int(k.sum()) for k in kept.values())
        units = sum(k.numel() for k in kept.values())
        yield Result(small, 1 - stays / units, self._gone(kept))

"""Highway networks have their gates: pull them shut, read them, and remove what they never open.

The transform gate T of a highway block is trained with the network anyway.  This gate adds an
incentive for it to shut, reads from inputs how far each channel of it opens, and removes
channels from H and T: a filter of H, the row of T for it and the column of T that reads it.  The
carry path stays, so that the channel is then what the block was given, and a block may lose all.

Only the penalty looks into the network while it trains, through a hook on each gate; what it sees
lives until the penalty has read it and is in no copy, pickle or checkpoint.
"""

import copy
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from thrifty.channels.groups import Group, Groups, Kept, Member
from thrifty.channels.removal import removed as sliced
from thrifty.errors import UserError
from thrifty.pruning.evidence import Batch
from thrifty.pruning.gates import GATES, Gate
from thrifty.pruning.gates.highway_blocks import Measured, Readings, blocks_of, measured, part
from thrifty.pruning.gates.highway_change import (
    SHAPES,
    Shape,
    priced,
    says_what_it_carries,
    shares,
)
from thrifty.pruning.gates.placing import holding, vacant
from thrifty.pruning.gates.shrinkage import number, share
from thrifty.registry import suggest

Cost = Literal["params", "macs", "plain"]
COSTS = ("params", "macs", "plain")
Of = Literal["transform", "change"]
OF = ("transform", "change")

SHUT = 1e-3
"""Mean of T below which a block does nothing that matters."""

_SEEN, _READINGS = "highway_seen", "highway_readings"


@GATES.entry("highway")
class HighwayGate(Gate):
    """The transform gates of a highway network, under an incentive to shut.

    The penalty is ``strength`` times the mean of T over inputs, positions and channels, each
    channel weighed by what it costs.  That is paid for as well by a smaller T and a larger H:
    all channels stay a little open, and all are needed.  ``of=change`` looks at what a block
    changes instead, which no scale of H can hide, and ``shape=log`` pulls harder the further a
    channel is shut, so that some shut wholly and the others stay open.

    Scores are told by the weight of H, such as ``blocks.3.h.weight``.

    Args:
        strength: of the incentive, in units of the loss; 0 only measures.  It is shared by all
            channels, so that short trainings need more, such as 0.5.
        of: what is penalised and scored; ``transform``: T; ``change``: how much of what a block
            writes is its own, also in 0..1.
        shape: ``mean``: the mean over channels; ``log``: the same mean of log(1 + t / 0.03) /
            log(1 + 1 / 0.03), t that of a channel.  Both are 1 where all gates are open.
        cost: what channels are weighed by: their ``params`` or ``macs``, or ``plain`` for all
            alike.
        warmup: share of the training in which the incentive rises from 0.
        score: ``mean`` of T, or a quantile such as ``q95``, which spares channels that open for
            few inputs; of a change only ``mean``.
        fold: whether removal adds to the bias of T what the removed channels of H sent to it in
            the mean.
        keep: patterns of ``h`` of blocks that are left alone; in a text, separated by commas.
        groups: not used; this gate knows its units.

    References:
        Srivastava et al., Training Very Deep Networks, 2015, https://arxiv.org/abs/1507.06228
        (the network; the incentive and the removal are ours); Candes et al., Enhancing Sparsity
        by Reweighted L1 Minimization, 2008, https://arxiv.org/abs/0711.1612 (the logarithm)
    """

    def __init__(
        self,
        *,
        strength: float = 1e-2,
        of: Of = "transform",
        shape: Shape = "mean",
        cost: Cost = "params",
        warmup: float = 0.1,
        score: str = "mean",
        fold: bool = True,
        keep: Sequence[str] | str = (),
        groups: Groups | None = None,
    ):
        self.strength = number("strength", strength, least=0.0)
        self.warmup = number("warmup", warmup, least=0.0)
        if self.warmup > 1:
            raise UserError(f"the gate has warmup={warmup:g}; it is a share of the training, 0..1")
        if cost not in COSTS:
            raise UserError(f"no cost of a channel is called {cost!r}; {suggest(str(cost), COSTS)}")
        if shape not in SHAPES:
            raise UserError(f"no penalty has the shape {shape!r}; {suggest(str(shape), SHAPES)}")
        if of not in OF:
            raise UserError(f"of={of!r} is nothing a block does; {suggest(str(of), OF)}")
        if of == "change" and score != "mean":
            raise UserError(f"the gate has of=change and score={score}; a change has no quantiles")
        if not isinstance(fold, bool):
            raise UserError(f"the gate has fold={fold!r}; give true or false")
        self.cost, self.of, self.shape, self.mean_fold = cost, of, shape, fold
        self.quantile = _quantile(score)
        self.keep = tuple(k for k in keep.split(",") if k) if isinstance(keep, str) else tuple(keep)

    def attach(self, model: nn.Module) -> None:
        """In place: a place for what is measured in every highway block, and hooks for training."""
        vacant(model, _READINGS)
        blocks = blocks_of(model, self.keep)
        for name, block in blocks.items() if self.of == "change" else ():
            says_what_it_carries(block, name)
        for block in blocks.values():
            block.register_module(_READINGS, Readings())
            if self.strength:
                gate = block.get_submodule("gate")
                setattr(gate, _SEEN, Seen())
                gate.register_forward_hook(_see, prepend=True)
                if self.of == "change":
                    block.register_forward_hook(_see_change)

    def variables(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """None: the gates are layers of the network and are trained like all others."""
        return {}

    def penalty(self, model: nn.Module, progress: float) -> Tensor | None:
        """The cost-weighted price of T in the last pass; ``None`` if there is no incentive."""
        if not self.strength:
            return None
        total, costs = None, 0.0
        for name, block in holding(model, _READINGS).items():
            if part(block, "h").out_channels == 0:
                continue
            seen = getattr(block.get_submodule("gate"), _SEEN, None)
            if not isinstance(seen, Seen) or seen.mean is None:
                raise UserError(
                    f"the gate of {name} was not run in training mode since the last step; the "
                    f"penalty is of the pass before it, and of a gate attached with strength > 0"
                )
            cost = self._cost(block, seen.positions) * len(seen.mean)
            total = cost * priced(seen.mean, self.shape) + (0.0 if total is None else total)
            costs += cost
            seen.mean = None
        if total is None:
            return None
        warm = min(1.0, progress / self.warmup) if self.warmup else 1.0
        return self.strength * warm / costs * total

    def measure(self, model: nn.Module, batches: Iterable[Batch]) -> None:
        """In place: means of T and H, and the quantile of T, over ``batches`` in eval mode."""
        blocks = holding(model, _READINGS)
        found = measured(model, blocks, batches, self.quantile, self.of == "change")
        for name, block in blocks.items():
            _place(block).found = found[name]

    def scores(self, model: nn.Module) -> dict[str, Tensor]:
        """Name of a weight of H -> mean of T, its quantile, or the change, (channels,).

        Raises:
            UserError: the gate is not attached, or not measured.
        """
        read = {_weight(name): _reading(block) for name, block in _measured(model).items()}
        if self.of == "change":
            return {n: r.change.clone() for n, r in read.items()}
        mean = self.quantile is None
        return {n: (r.transform if mean else r.quantile).clone() for n, r in read.items()}

    def cutoff(self, threshold: float) -> float:
        """``threshold`` itself: channels stay whose T is above it.

        Raises:
            UserError: it is not within 0..1.
        """
        return share(
            "highway",
            threshold,
            "T is in 0..1, and channels stay whose T (or change) is above the threshold, such as "
            "0.05",
        )

    def own_units(self, model: nn.Module, keep: Sequence[str] = ()) -> Groups:
        """The channels of H, a group a block; of blocks that ``keep`` matches none."""
        held = _measured(model)
        names = [n for n in blocks_of(model, keep) if n in held]
        groups = [_group(n, held[n]) for n in names if part(held[n], "h").out_channels]
        uses = {
            f"{n}.{layer}.weight".lstrip("."): float(_reading(held[n]).positions)
            for n in names
            for layer in ("h", "t")
        }
        return Groups(tuple(groups), uses=uses)

    @torch.no_grad()
    def removed(self, model: nn.Module, groups: Groups, kept: Kept) -> nn.Module:
        """A copy without the channels that ``kept`` gives up, and without this gate.

        It computes what the network computes in which T of those channels is 0 and what they
        sent to T is a constant: with ``fold`` their mean over the measured inputs, times the sum
        of the filter; without, 0.  At borders that are padded with zeros the mean is too much,
        for fewer taps of the filter would have seen it.

        Raises:
            UserError: ``kept`` does not fit ``groups``, or the gate is not attached or measured.
        """
        kept = _checked(groups, kept)
        folded = self._with_means(model, groups, kept)
        small, _ = sliced(folded, groups, kept)
        self.fold(small)
        return small

    @torch.no_grad()
    def closed(self, model: nn.Module, groups: Groups, kept: Kept) -> nn.Module:
        """The network of :meth:`removed` with nothing removed: T of those channels is 0.

        Raises:
            UserError: as of :meth:`removed`.
        """
        kept = _checked(groups, kept)
        whole = self._with_means(model, groups, kept)
        for name, keep in kept.items():
            t = part(whole.get_submodule(groups[name].members[0].layer.rpartition(".")[0]), "t")
            gone = (~keep).nonzero()[:, 0].to(t.weight.device)
            t.weight.index_fill_(0, gone, 0.0).index_fill_(1, gone, 0.0)
            assert t.bias is not None
            t.bias.index_fill_(0, gone, -1e4)
        self.fold(whole)
        return whole

    def fold(self, model: nn.Module) -> None:
        """In place: take readings and hooks out; the network computes what it did."""
        for block in holding(model, _READINGS).values():
            delattr(block, _READINGS)
            gate = block.get_submodule("gate")
            vars(gate).pop(_SEEN, None)
            for module, hook in ((gate, _see), (block, _see_change)):
                for key in [k for k, f in module._forward_hooks.items() if f is hook]:
                    del module._forward_hooks[key]

    def _cost(self, block: nn.Module, positions: int) -> float:
        """What one channel of a block costs, all others there."""
        if self.cost == "plain":
            return 1.0
        h, t = part(block, "h"), part(block, "t")
        taps = math.prod(t.kernel_size)
        weights = h.weight[0].numel() + taps * (2 * t.in_channels - 1)
        if self.cost == "macs":
            return float(weights * positions)
        return float(weights + 1 + (h.bias is not None))

    def _with_means(self, model: nn.Module, groups: Groups, kept: Kept) -> nn.Module:
        """A copy with what removed channels send to T in the mean in its bias, if that is asked."""
        _measured(model)
        out = copy.deepcopy(model)
        for name, keep in kept.items() if self.mean_fold else ():
            block = out.get_submodule(groups[name].members[0].layer.rpartition(".")[0])
            t, gone = part(block, "t"), ~keep
            columns = t.weight[:, gone.to(t.weight.device)].flatten(2).sum(2)
            sent = _reading(block).hidden[gone].to(columns)
            assert t.bias is not None
            t.bias += columns @ sent
        return out


class Seen:
    """The mean of T by channel in the pass that is trained on; copies and pickles have none."""

    def __init__(self) -> None:
        self.mean: Tensor | None = None
        self.positions = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "Seen":
        return Seen()

    def __reduce__(self) -> tuple[type["Seen"], tuple[()]]:
        return Seen, ()


def collapsed(readings: Mapping[str, Tensor], shut: float = SHUT) -> list[str]:
    """The blocks of stages that became the identity: mean of T below ``shut`` in all of them.

    A stage is blocks in a row with as many channels; a single shut block in it is no collapse,
    for networks are made deeper than they need.

    Args:
        readings: name of a weight of H -> mean of T, (channels,), in the order of the network,
            as :meth:`HighwayGate.scores` gives.

    Returns:
        Names of blocks, such as ``blocks.3``; none if nothing collapsed.
    """
    found = []
    for _, stage in itertools.groupby(readings.items(), key=lambda item: len(item[1])):
        names, values = zip(*stage, strict=True)
        if all(len(v) == 0 or float(v.mean()) < shut for v in values):
            found += [name.removesuffix(".weight").removesuffix("h").rstrip(".") for name in names]
    return found


def _see(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    """The hook: remember the means of T, (batch, channels, *size), for the penalty."""
    seen = getattr(module, _SEEN)
    if module.training and torch.is_grad_enabled():
        means = output.float().mean((0, *range(2, output.dim())))
        seen.mean, seen.positions = means, math.prod(output.shape[2:])


def _see_change(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    """The hook of a block: what it changes, for the penalty, in place of T."""
    if module.training and torch.is_grad_enabled() and len(cast("Tensor", module.kept)):
        getattr(module.get_submodule("gate"), _SEEN).mean = shares(module, args[0], output)


def _quantile(score: object) -> float | None:
    """The quantile in 0..1 that ``q95`` means, ``None`` for the mean.

    Raises:
        UserError: it is neither.
    """
    if score == "mean":
        return None
    match = re.fullmatch(r"q(\d{1,3}(?:\.\d{1,6})?)", str(score))
    if match is None or not 0 < float(match[1]) <= 100:
        raise UserError(
            f"the gate has score={score!r}; it is mean, or a quantile such as q95 (above 0, up to "
            f"100, in per cent)"
        )
    return float(match[1]) / 100


def _weight(block: str) -> str:
    return f"{block}.h.weight".lstrip(".")


def _measured(model: nn.Module) -> dict[str, nn.Module]:
    blocks = holding(model, _READINGS)
    if any(_place(block).found is None for block in blocks.values()):
        raise UserError(
            "the gate highway reads how far gates open on inputs, and saw none yet; call "
            "measure(model, batches) first"
        )
    return blocks


def _place(block: nn.Module) -> Readings:
    found = block.get_submodule(_READINGS)
    assert isinstance(found, Readings)
    return found


def _reading(block: nn.Module) -> Measured:
    found = _place(block).found
    assert found is not None
    return found


def _group(name: str, block: nn.Module) -> Group:
    prefix = f"{name}." if name else ""
    units = torch.arange(part(block, "h").out_channels)
    places = [
        ("h.weight", 0, "out"),
        ("h.bias", 0, "shift"),
        ("t.weight", 0, "out"),
        ("t.weight", 1, "in"),
        ("t.bias", 0, "shift"),
        ("kept", 0, "each"),
    ]
    if part(block, "h").bias is None:
        del places[1]
    members = tuple(Member(prefix + tensor, dim, units, role) for tensor, dim, role in places)
    return Group(f"{prefix}h", len(units), members, None, (f"gate of {name or 'the block'}",))


def _checked(groups: Groups, kept: Kept) -> dict[str, Tensor]:
    """``kept`` without groups that lose nothing; a group may lose all.

    Raises:
        UserError: an unknown group, or a value that is no bool a unit.
    """
    out = {}
    for name, keep in kept.items():
        units = groups[name].units
        if not isinstance(keep, Tensor) or keep.dtype != torch.bool or keep.shape != (units,):
            raise UserError(
                f"kept[{name!r}] is {getattr(keep, 'dtype', type(keep).__name__)} "
                f"{tuple(getattr(keep, 'shape', ()))}; it is torch.bool of ({units},), a value a "
                f"channel"
            )
        if not bool(keep.all()):
            out[name] = keep.cpu()
    return out

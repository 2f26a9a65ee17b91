"""Highway blocks in a network: which modules they are, and what their gates do on inputs.

A highway block is any module with these four, whatever its class:

- ``h``, a convolution without groups, whose rectified output is H;
- ``t``, a convolution without groups, with bias, from the channels of H to as many;
- ``gate``, a module that is called on what ``t`` returns and gives T, in 0..1;
- ``kept``, a buffer of int64, (channels of H,): where in its output the block writes them.

Its forward must take T * H + (1 - T) * s at those places and s at all others, for any ``kept``,
none included; :class:`thrifty.nets.highway.HighwayBlock` is the one of the network ``highway``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thrifty.channels.modes import evaluating
from thrifty.errors import UserError
from thrifty.pruning.allocation import matching
from thrifty.pruning.evidence import Batch
from thrifty.pruning.gates.highway_change import Spread

_Conv = nn.modules.conv._ConvNd

STEP = 17
"""Bits of a float32 that bins leave out: 64 bins for every power of 2, each within 1.6 %."""
BINS = (0x3F800000 >> STEP) + 1
"""Bins of the numbers 0..1."""


@dataclass(frozen=True)
class Measured:
    """What a gate did on inputs, each (channels,)."""

    transform: Tensor
    """Mean of T over inputs and positions."""
    quantile: Tensor
    """A quantile of T over the same, within 0.8 % of its value; zeros if none was asked for."""
    hidden: Tensor
    """Mean of H."""
    change: Tensor
    """How much of what the block writes its change is (highway_change.py); zeros if that
    was not asked for."""
    positions: int
    """Of T for one input."""


class Readings(nn.Module):
    """Where a block holds what was measured of its gate.

    It is in state dicts, copies and pickles, and is no buffer: what a network takes is counted
    with the gate attached.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Measured | None = None

    def get_extra_state(self) -> Tensor:
        """What is held as one tensor, float64; empty if nothing was measured."""
        if self.found is None:
            return torch.empty(0, dtype=torch.float64)
        one = self.found
        return torch.cat(
            [x.double() for x in (one.transform, one.quantile, one.hidden, one.change)]
            + [torch.tensor([one.positions], dtype=torch.float64)]
        )

    def set_extra_state(self, state: Tensor) -> None:
        """In place: hold what :meth:`get_extra_state` gave."""
        if not len(state):
            self.found = None
            return
        rows = state[:-1].view(4, len(state) // 4).float().cpu().clone()
        transform, quantile, hidden, change = rows
        self.found = Measured(transform, quantile, hidden, change, int(state[-1]))


def blocks_of(model: nn.Module, keep: Sequence[str] = ()) -> dict[str, nn.Module]:
    """Name -> highway block, without those of which ``keep`` matches ``h``.

    Raises:
        UserError: there is none, or none is left, or a pattern matches nothing.
    """
    found = {name: m for name, m in model.named_modules() if is_block(m)}
    if not found:
        raise UserError(
            f"the gate highway needs highway blocks and {type(model).__name__} has none; use the "
            f"network highway, or cut this one with the method slimming, which learns scales of "
            f"channels, or l1_filter, which learns nothing"
        )
    weights = {f"{name}.h.weight".lstrip("."): name for name in found}
    exempt = {weights[w] for w in matching(tuple(keep), list(weights))} if keep else set()
    found = {name: m for name, m in found.items() if name not in exempt}
    if not found:
        raise UserError(f"keep={list(keep)} leaves no highway block of {type(model).__name__}")
    return found


def is_block(module: nn.Module) -> bool:
    """Whether a module has what a highway block has, in sizes that go together."""
    h, t = getattr(module, "h", None), getattr(module, "t", None)
    kept = module._buffers.get("kept")
    if not isinstance(h, _Conv) or not isinstance(t, _Conv) or kept is None:
        return False
    if not isinstance(getattr(module, "gate", None), nn.Module) or t.bias is None:
        return False
    plain = not (h.transposed or t.transposed) and h.groups == t.groups == 1
    sizes = {h.out_channels, t.in_channels, t.out_channels}
    return plain and kept.dtype == torch.int64 and {tuple(kept.shape)} == {(n,) for n in sizes}


def part(block: nn.Module, name: str) -> _Conv:
    """The convolution ``h`` or ``t`` of a block."""
    found = getattr(block, name)
    assert isinstance(found, _Conv)
    return found


def measured(
    model: nn.Module,
    blocks: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    quantile: float | None,
    change: bool = False,
) -> dict[str, Measured]:
    """What the gates of ``blocks`` do on the inputs of ``batches``, in eval mode.

    The mean is of every input and position, in double precision; the quantile is read from
    bins, so that memory does not grow with the inputs.

    Args:
        quantile: in 0..1, ``None`` for none.
        change: whether to measure that too, for which blocks must say what they carry.

    Raises:
        UserError: there are no inputs, or T is no number in 0..1.
    """
    sums = {
        name: _Sums(part(m, "h").out_channels, quantile, Spread() if change else None)
        for name, m in blocks.items()
    }
    inputs = 0
    with torch.no_grad(), evaluating(model), _watched(blocks, sums):
        for x, _ in batches:
            model(x)
            inputs += len(x)
    if not inputs:
        raise UserError("the gate highway is measured on inputs and there are none; give some")
    return {name: found.read(name) for name, found in sums.items()}


@contextmanager
def _watched(blocks: Mapping[str, nn.Module], sums: Mapping[str, "_Sums"]) -> Iterator[None]:
    handles = []
    for name, block in blocks.items():
        gate = getattr(block, "gate")  # noqa: B009  (a module, which getattr does not know)
        handles.append(gate.register_forward_hook(sums[name].saw_gate))
        handles.append(part(block, "t").register_forward_pre_hook(sums[name].saw_hidden))
        spread = sums[name].spread
        if spread is not None:
            handles.append(block.register_forward_hook(spread.saw))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Sums:
    """Sums over batches of what one gate gives and of what it is fed."""

    def __init__(self, channels: int, quantile: float | None, spread: Spread | None):
        self.spread = spread
        self.transform = torch.zeros(channels, dtype=torch.float64)
        self.hidden = torch.zeros(channels, dtype=torch.float64)
        self.bins = None if quantile is None else torch.zeros(channels, BINS, dtype=torch.int64)
        self.quantile, self.count, self.positions = quantile, 0, 0

    def saw_gate(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Count T, (batch, channels, *size)."""
        t = output.movedim(1, 0).flatten(1).float()
        self.transform += t.double().sum(1).cpu()
        self.count += t.shape[1]
        self.positions = t.shape[1] // max(1, len(output))
        if self.bins is not None:
            self.bins += _binned(t).cpu()

    def saw_hidden(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Count H, (batch, channels, *size)."""
        self.hidden += args[0].movedim(1, 0).flatten(1).double().sum(1).cpu()

    def read(self, name: str) -> Measured:
        """The means, and the quantile."""
        many = max(1, self.count)
        mean = self.transform / many
        if not bool(((mean >= 0) & (mean <= 1)).all()):
            raise UserError(
                f"the gate of {name} gives a mean of {float(mean.max()):.3g}, and T is in 0..1; "
                f"the network diverged, or its module 'gate' is no sigmoid"
            )
        high = torch.zeros_like(mean)
        if self.bins is not None and self.quantile is not None and self.count:
            high = _quantile(self.bins, self.quantile)
        hidden = self.hidden / many
        change = torch.zeros_like(mean) if self.spread is None else self.spread.read(mean)
        return Measured(mean.float(), high.float(), hidden.float(), change.float(), self.positions)


def _binned(t: Tensor) -> Tensor:
    """How many of ``t``, (channels, n) in 0..1, lie in each bin, (channels, BINS)."""
    # The bits of positive floats rise with them, so their first bits are bins of equal ratio.
    index = (t.clamp(0, 1).contiguous().view(torch.int32) >> STEP).long()
    index += torch.arange(len(t), device=t.device)[:, None] * BINS
    return torch.bincount(index.flatten(), minlength=len(t) * BINS).view(len(t), BINS)


def _quantile(bins: Tensor, quantile: float) -> Tensor:
    """(channels,) the middle of the bin in which so many lie at or below."""
    total = bins.sum(1, keepdim=True)
    wanted = (quantile * total.double()).ceil().clamp(min=1)
    index = (bins.cumsum(1) < wanted).sum(1).int()
    low, high = index << STEP, ((index + 1) << STEP).clamp(max=0x3F800000)
    return (low.view(torch.float32).double() + high.view(torch.float32).double()) / 2

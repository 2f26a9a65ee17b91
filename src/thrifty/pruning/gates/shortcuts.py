"""Shortcuts of a recursive network: coefficients pulled to 0 or 1, and the small ones really gone.

A ThriftyNet adds outputs of earlier iterations to that of its convolution, each times a coefficient
that it learns.  This gate pulls every such coefficient to the nearer of 0 and 1, and takes
shortcuts out: their coefficient is 0, their link false, and nothing is computed for them any more.

Nothing is put into the network; the coefficients are parameters that it has.  The pull is a step
of its own after that of the optimizer, and no term of the loss: its curvature grows with its
strength, so that a gradient step would overshoot at the end of a training, when it is strongest.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from thrifty.channels.groups import Group, Groups, Kept, Member
from thrifty.errors import UserError
from thrifty.pruning.allocation import matching
from thrifty.pruning.gates import GATES, Gate
from thrifty.pruning.gates.placing import listed
from thrifty.pruning.gates.shrinkage import number, share

CONVOLUTION = 0
"""The column of ``alpha`` that is of the convolution; column i is of the output i before."""


@GATES.entry("shortcuts")
class Shortcuts(Gate):
    """The coefficients of earlier outputs in a recursive network, such as thriftynet.

    Trained, they go downhill on ``strength * growth**progress * sum alpha^2 (1 - alpha)^2``, which
    is 0 where all of them are 0 or 1.  Scores are |alpha|; one goes that is not above a threshold,
    published is 0.2.

    Any module has shortcuts that has a parameter ``alpha``, (iterations, history + 1), and a
    buffer of bool ``links`` of that shape; where a link is false its forward must leave the term
    out, and otherwise add alpha[t, i] times the output i before iteration t, or for i = 0 what it
    computes there.

    Args:
        strength: of the pull at the beginning, 0 or more; 0 only reads.
        growth: how many times as strong it is at the end.  The published factor of 1.00015 a step
            is about 1e5 in 200 epochs of CIFAR-10.
        binarise: coefficients that stay become 1, and ``alpha`` is trained no more, those of
            convolutions included, as long as the network lives; one read from a file learns
            again.  Scores are then alpha itself, for one below 0 is never nearly 1.
        convolutions: whether the convolution of an iteration is a shortcut as well.
        keep: patterns of ``alpha`` of modules that are left alone; in a text, separated by commas.
        groups: not used; this gate knows its units.

    References:
        Coiffier, Boukli Hacene, Gripon, ThriftyNets, 2020, https://arxiv.org/abs/2007.10106
    """

    unit = "weight"
    priced = False

    def __init__(
        self,
        *,
        strength: float = 3e-4,
        growth: float = 1e5,
        binarise: bool = False,
        convolutions: bool = False,
        keep: Sequence[str] | str = (),
        groups: Groups | None = None,
    ):
        self.strength = number("strength", strength, least=0.0)
        self.growth = number("growth", growth, least=1.0)
        for name, value in (("binarise", binarise), ("convolutions", convolutions)):
            if not isinstance(value, bool):
                raise UserError(f"the gate has {name}={value!r}; give true or false")
        self.binarise, self.convolutions = binarise, convolutions
        self.keep = listed(keep)

    def attach(self, model: nn.Module) -> None:
        """Nothing is put in.

        Raises:
            UserError: the network has no shortcuts, or a pattern of ``keep`` matches none.
        """
        recursions_of(model, self.keep)

    def variables(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The coefficients, which weight decay leaves out; not those that are frozen."""
        found = recursions_of(model, self.keep)
        alphas = {_alpha(name): m.get_parameter("alpha") for name, m in found.items()}
        return {name: alpha for name, alpha in alphas.items() if alpha.requires_grad}

    def temperature(self, progress: float) -> float:
        """How strong the pull is at a ``progress`` of the training, 0..1."""
        return self.strength * float(self.growth**progress)

    @torch.no_grad()
    def after_step(self, model: nn.Module, lr: float, progress: float) -> None:
        """In place: pull every coefficient as far as a gradient of the penalty would."""
        by = lr * self.temperature(progress)
        if not by:
            return
        for module in recursions_of(model, self.keep).values():
            alpha = module.get_parameter("alpha")
            if alpha.requires_grad:
                mine = self._mine(module).to(alpha.device)
                alpha.copy_(torch.where(mine, pulled(alpha, by), alpha))

    def scores(self, model: nn.Module) -> dict[str, Tensor]:
        """Name of ``alpha`` -> |alpha|, or alpha, (iterations, history + 1); 0 where is no link."""
        return {
            _alpha(name): self._worth(module)
            for name, module in recursions_of(model, self.keep).items()
        }

    def cutoff(self, threshold: float) -> float:
        """``threshold`` itself: shortcuts stay whose coefficient is above it.

        Raises:
            UserError: it is not within 0..1.
        """
        return share(
            "shortcuts",
            threshold,
            "coefficients are pulled to 0 or 1, and shortcuts stay whose coefficient is above the "
            "threshold, such as 0.2",
        )

    def own_units(self, model: nn.Module, keep: Sequence[str] = ()) -> Groups:
        """The shortcuts that are there, a group a module; of modules that ``keep`` matches none."""
        exempt = recursions_of(model, self.keep)
        found = {n: m for n, m in recursions_of(model, keep).items() if n in exempt}
        groups = [_group(name, self._mine(module)) for name, module in found.items()]
        return Groups(tuple(group for group in groups if group.units))

    @torch.no_grad()
    def removed(self, model: nn.Module, groups: Groups, kept: Kept) -> nn.Module:
        """A copy without the shortcuts that ``kept`` gives up; it computes what ``model`` does
        with their coefficients at 0.

        An iteration whose terms all went keeps the one with the largest coefficient.

        Raises:
            UserError: ``kept`` does not fit ``groups``, or these are of another network.
        """
        for name in kept:
            _checked(groups[name], kept)
        small = copy.deepcopy(model)
        modules = recursions_of(small)
        for group in groups:
            keep, unit = _checked(group, kept), group.members[0].unit
            module = modules.get(group.members[0].layer)
            alpha = None if module is None else module.get_parameter("alpha")
            if module is None or alpha is None or alpha.numel() != len(unit):
                raise UserError(
                    f"{group.name} is no alpha of {len(unit)} coefficients in this "
                    f"{type(model).__name__}; find the units of this network"
                )
            mine = (unit >= 0).view(alpha.shape)
            gone = mine & ~keep[unit.clamp_min(0)].view(alpha.shape)
            self._take(module, mine & ~gone, gone)
        self.fold(small)
        return small

    def fold(self, model: nn.Module) -> None:
        """Nothing was put in."""

    def _take(self, module: nn.Module, left: Tensor, gone: Tensor) -> None:
        """In place: the shortcuts that are gone, and those of the same units that are left."""
        alpha, links = module.get_parameter("alpha"), module.get_buffer("links")
        there = possible(alpha.shape) & links.cpu()
        worth = torch.where(there, self._worth(module), -torch.inf)
        empty = ~(there & ~gone).any(1) & there.any(1)
        spared = torch.zeros_like(gone)
        spared[empty.nonzero()[:, 0], worth.argmax(1)[empty]] = True
        gone = gone & ~spared
        links.copy_(there & ~gone)
        alpha.masked_fill_(~links, 0.0)
        if self.binarise:
            ones = (left | spared) & history(alpha.shape)
            alpha.masked_fill_(ones.to(alpha.device), 1.0)
            alpha.requires_grad_(False)

    def _mine(self, module: nn.Module) -> Tensor:
        """(iterations, history + 1) bool: the coefficients that are units of this gate."""
        links = module.get_buffer("links").cpu()
        there = possible(links.shape) & links
        return there if self.convolutions else there & history(links.shape)

    def _worth(self, module: nn.Module) -> Tensor:
        """(iterations, history + 1) how much each coefficient is worth."""
        alpha = module.get_parameter("alpha").detach().float().cpu()
        worth = alpha.clone() if self.binarise else alpha.abs()
        worth[:, CONVOLUTION] = alpha[:, CONVOLUTION].abs()  # its sign is the activation's
        there = possible(alpha.shape) & module.get_buffer("links").cpu()
        return worth.masked_fill_(~there, 0.0)


def quartic(alpha: Tensor, temperature: float) -> Tensor:
    """``temperature * sum alpha^2 (1 - alpha)^2``: 0 where every coefficient is 0 or 1.

    Example:
        >>> float(quartic(torch.tensor([0.5, 1.0, 0.0]), 16.0))
        1.0
    """
    return temperature * (alpha * (1 - alpha)).square().sum()


def pulled(alpha: Tensor, by: float) -> Tensor:
    """Each coefficient nearer to 0 or 1 by the gradient of ``quartic(alpha, by)``, never past it.

    The gradient is the distance to the nearer of the two, times a rate; a rate held for a time
    leaves its exponential of the distance, however long the time.  At 0.5 nothing moves.

    Example:
        >>> pulled(torch.tensor([0.25, 0.75, 1.0]), 1e6)
        tensor([0., 1., 1.])
    """
    nearer = (alpha > 0.5).to(alpha)
    rate = 2 * (1 - 2 * alpha) * (1 - nearer - alpha)
    return nearer + (alpha - nearer) * torch.exp(-min(by, 1e30) * rate)


def recursions_of(model: nn.Module, keep: Sequence[str] = ()) -> dict[str, nn.Module]:
    """Name -> module with shortcuts, without those of which ``keep`` matches ``alpha``.

    Raises:
        UserError: there is none, or none is left, or a pattern matches nothing.
    """
    found = {name: m for name, m in model.named_modules() if is_recursion(m)}
    if not found:
        raise UserError(
            f"the gate shortcuts needs a network that learns coefficients of its shortcuts and "
            f"{type(model).__name__} has none; use the network thriftynet, or cut this one with "
            f"the method slimming, which learns scales of channels, or l1_filter, which learns "
            f"nothing"
        )
    names = {_alpha(name): name for name in found}
    exempt = {names[n] for n in matching(tuple(keep), list(names))} if keep else set()
    found = {name: m for name, m in found.items() if name not in exempt}
    if not found:
        raise UserError(f"keep={list(keep)} leaves no shortcuts of {type(model).__name__}")
    return found


def is_recursion(module: nn.Module) -> bool:
    """Whether a module has what one with shortcuts has, in sizes that go together."""
    alpha, links = module._parameters.get("alpha"), module._buffers.get("links")
    if alpha is None or links is None or not alpha.is_floating_point():
        return False
    return alpha.dim() == 2 and alpha.shape == links.shape and links.dtype == torch.bool


def possible(shape: Sequence[int]) -> Tensor:
    """(iterations, history + 1) bool: before iteration t there are no more than t + 1 outputs.

    Example:
        >>> possible((2, 4)).int().tolist()
        [[1, 1, 0, 0], [1, 1, 1, 0]]
    """
    t, i = torch.arange(shape[0])[:, None], torch.arange(shape[1])
    return i <= t + 1


def history(shape: Sequence[int]) -> Tensor:
    """(iterations, history + 1) bool: the coefficients of earlier outputs."""
    return (torch.arange(shape[1]) != CONVOLUTION).expand(*shape)


def _alpha(module: str) -> str:
    return f"{module}.alpha" if module else "alpha"


def _group(name: str, mine: Tensor) -> Group:
    unit = torch.full((mine.numel(),), -1, dtype=torch.int64)
    unit[mine.reshape(-1)] = torch.arange(int(mine.sum()))
    member = Member(_alpha(name), -1, unit, "scale")
    why = f"coefficients of {name or 'the network'}"
    return Group(_alpha(name), int(mine.sum()), (member,), None, (why,))


def _checked(group: Group, kept: Mapping[str, Tensor]) -> Tensor:
    """What is kept of a group; all of it if nothing is said.

    Raises:
        UserError: a value that is no bool a unit.
    """
    keep = kept.get(group.name, torch.ones(group.units, dtype=torch.bool))
    if not isinstance(keep, Tensor) or keep.dtype != torch.bool or keep.shape != (group.units,):
        raise UserError(
            f"kept[{group.name!r}] is {getattr(keep, 'dtype', type(keep).__name__)} "
            f"{tuple(getattr(keep, 'shape', ()))}; it is torch.bool of ({group.units},), a value a "
            f"shortcut"
        )
    return keep.cpu()

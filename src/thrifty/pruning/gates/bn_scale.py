"""Network slimming on the batch normalisation a network has: L1 on its scales.

Nothing is put into the network and nothing needs to be folded: the scale of a batch normalisation
multiplies a channel already, and whoever removes the channel folds what its shift still sends.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thrifty.channels.groups import Groups
from thrifty.errors import UserError
from thrifty.pruning.allocation import matching
from thrifty.pruning.gates import GATES
from thrifty.pruning.gates.placing import weight_name
from thrifty.pruning.gates.shrinkage import Form, Shrunk, beginning
from thrifty.pruning.gates.units import by_unit, by_weight

_Norm = nn.modules.batchnorm._BatchNorm


@GATES.entry("bn_scale")
class BNScale(Shrunk):
    """L1 on the scales of batch normalisation (network slimming).

    Scores are absolute scales.  With ``groups`` they are told by the weight that makes the
    channels, such as ``conv1.weight``, the mean of all norms that scale one of them.  Without,
    by the scale itself, such as ``bn1.weight``: behind a sum or a concatenation, no one layer
    makes its channels, and names alone do not say which layer is before a norm.

    Args:
        strength, form, keep, groups: see :class:`~thrifty.pruning.gates.shrinkage.Shrunk`.
        init: where scales begin in a network that is trained from scratch; a norm that was
            trained (its weight, bias or statistics are not those of a new one) is left as
            it is.  ``None`` leaves all.

    References:
        Liu et al., Learning Efficient Convolutional Networks through Network Slimming, 2017,
        https://arxiv.org/abs/1708.06519 (strength 1e-4 for VGG, 1e-5 for ResNet-164 and
        DenseNet-40, with the subgradient; init 0.5)
    """

    def __init__(
        self,
        *,
        strength: float = 1e-4,
        form: Form = "proximal",
        init: float | None = 0.5,
        keep: Sequence[str] | str = (),
        groups: Groups | None = None,
    ):
        super().__init__(strength, form, keep, groups)
        self.init = beginning(init)

    @torch.no_grad()
    def attach(self, model: nn.Module) -> None:
        """In place: set the scales of new norms to ``init``; nothing is added."""
        for norm in self._norms(model).values():
            if self.init is not None and _new(norm):
                norm.weight.fill_(self.init)

    def variables(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The scales that are trained."""
        norms = self._norms(model)
        return {weight_name(n): m.weight for n, m in norms.items() if m.weight.requires_grad}

    def scores(self, model: nn.Module) -> dict[str, Tensor]:
        """Parameter name -> absolute scales, (channels,)."""
        found = {weight_name(n): m.weight.detach().abs() for n, m in self._norms(model).items()}
        if self.groups is None:
            return found
        return by_weight(self.groups, by_unit(self.groups, found))

    def _norms(self, model: nn.Module) -> dict[str, _Norm]:
        """Name -> batch normalisation with scales that may be penalised."""
        found = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, _Norm) and isinstance(module.weight, nn.Parameter)
        }
        if not found:
            raise UserError(
                f"the gate bn_scale needs batch normalisation with scales and "
                f"{type(model).__name__} has none; use the gate channel_scale or bn_finder"
            )
        if self.groups is not None:
            free = {m.tensor for g in self.groups.free for m in g.members}
            found = {n: m for n, m in found.items() if weight_name(n) in free}
        exempt = set(matching(self.keep, [weight_name(n) for n in found])) if self.keep else set()
        found = {n: m for n, m in found.items() if weight_name(n) not in exempt}
        if not found:
            raise UserError(
                f"no batch normalisation of {type(model).__name__} is left to penalise: none has "
                f"channels that may be cut, or keep={list(self.keep)} exempts all"
            )
        return found


def _new(norm: _Norm) -> bool:
    """Whether nothing of ``norm`` differs from what it is made with."""
    zero = [t for t in (norm.bias, norm.running_mean, norm.num_batches_tracked) if t is not None]
    one = [t for t in (norm.weight, norm.running_var) if t is not None]
    return not any(bool((t != 0).any()) for t in zero) and all(bool((t == 1).all()) for t in one)

"""Batch normalisation put behind convolutions only to find channels, then taken away again.

The network is trained with the norms under L1 on their scales, the scales say which channels are
worth keeping, and ``fold`` throws the norms and everything learned beside them away: the network
is bit for bit what it was at ``attach``, and it is this one that is pruned and retrained.  So
``fold`` does not keep outputs (``restores`` is True), and the weights of ``attach`` wait in
buffers called ``..._before_gate`` in the state dict, where a copy or a checkpoint keeps them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thrifty.channels.groups import Groups
from thrifty.errors import UserError
from thrifty.pruning.gates import GATES
from thrifty.pruning.gates.placing import (
    called,
    holding,
    hook,
    places,
    unhook,
    vacant,
    weight_name,
    width,
)
from thrifty.pruning.gates.shrinkage import Form, Shrunk, beginning

_NAME = "norm_gate"
_BEFORE = "_before_gate"
_NORMS: dict[type[nn.Module], type[nn.modules.batchnorm._BatchNorm]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.ConvTranspose1d: nn.BatchNorm1d,
    nn.ConvTranspose2d: nn.BatchNorm2d,
    nn.ConvTranspose3d: nn.BatchNorm3d,
}


@GATES.entry("bn_finder")
class BNFinder(Shrunk):
    """L1 on batch normalisation that is added after convolutions and removed again.

    Scores are the absolute scales of the norms, (out,), under the name of the convolution's
    weight, such as ``conv1.weight``.  They are read before ``fold``, which puts back the network
    as it was at ``attach``.

    Args:
        strength, form, keep, groups: see :class:`~thrifty.pruning.gates.shrinkage.Shrunk`.
        init: where the scales of the new norms begin; ``None`` is torch's 1.

    References:
        Liu et al., Learning Efficient Convolutional Networks through Network Slimming, 2017,
        https://arxiv.org/abs/1708.06519 (the scales; here of a network without the norms)
    """

    restores = True

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

    def attach(self, model: nn.Module) -> None:
        """In place: keep all values beside, and a norm ``norm_gate`` in every convolution."""
        vacant(model, _NAME)
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                raise UserError(
                    f"{name} is a {type(module).__name__}; the gate bn_finder is for networks "
                    f"without batch normalisation, use bn_scale"
                )
        found = places(model, tuple(_NORMS), self.keep, self.groups)
        _remember(model)
        for module in found.values():
            kind = next(norm for conv, norm in _NORMS.items() if isinstance(module, conv))
            weight = module.weight
            assert isinstance(weight, Tensor)
            norm = kind(width(module), device=weight.device, dtype=weight.dtype)
            if self.init is not None:
                nn.init.constant_(norm.weight, self.init)
            module.add_module(_NAME, norm.train(module.training))
            hook(module, _normalised)

    def variables(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The scales of the norms."""
        return {
            f"{n}.{_NAME}.weight".lstrip("."): _norm(m).weight
            for n, m in holding(model, _NAME).items()
        }

    def scores(self, model: nn.Module) -> dict[str, Tensor]:
        """Parameter name of a weight -> absolute scales of its norm, (out,)."""
        found = called(model, _NAME, f"{_NAME}.num_batches_tracked")
        return {weight_name(n): _norm(m).weight.detach().abs() for n, m in found.items()}

    def fold(self, model: nn.Module) -> None:
        """In place: take the norms away and put all values back to those of ``attach``."""
        for module in holding(model, _NAME).values():
            delattr(module, _NAME)
            unhook(module, _normalised)
        _recall(model)


def _norm(module: nn.Module) -> nn.modules.batchnorm._BatchNorm:
    norm = getattr(module, _NAME)
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    return norm


def _normalised(module: nn.Module, inputs: tuple[object, ...], output: Tensor) -> Tensor:
    """The hook: ``output``, (batch, out, *size), through the norm of the layer."""
    normalised = _norm(module)(output)
    assert isinstance(normalised, Tensor)
    return normalised


def _own(module: nn.Module) -> dict[str, Tensor]:
    """What the module itself holds and saves, by the name of the attribute."""
    kept = {k: v for k, v in module._buffers.items() if k not in module._non_persistent_buffers_set}
    return {k: v for k, v in {**module._parameters, **kept}.items() if v is not None}


def _remember(model: nn.Module) -> None:
    for module in model.modules():
        for name, value in _own(module).items():
            module.register_buffer(name + _BEFORE, value.detach().clone())


@torch.no_grad()
def _recall(model: nn.Module) -> None:
    for module in model.modules():
        own = _own(module)
        for name in [n for n in own if n.endswith(_BEFORE)]:
            own[name.removesuffix(_BEFORE)].copy_(own[name])
            delattr(module, name)

"""Network slimming without batch normalisation: a scale for every output channel, for a while.

The scale multiplies what a convolution or hidden linear layer returns, bias included, so ``fold``
multiplies weight and bias by it and the network computes what it did with gates.  A channel
whose scale became exactly zero has a zero filter and a zero bias then, and sends nothing.  A
layer that is never called, because other code reads its weight, has a scale that changes
nothing; a buffer tells, so that it has no score and its weight stays as it is.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thrifty.channels.groups import Groups
from thrifty.errors import UserError
from thrifty.pruning.gates import GATES
from thrifty.pruning.gates.placing import (
    LAYERS,
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

_NAME, _RAN = "channel_gate", "channel_gate_ran"
_UNSCALED = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


@GATES.entry("channel_scale")
class ChannelScale(Shrunk):
    """L1 on temporary scales after convolutions and hidden linear layers, folded in at the end.

    Scores are absolute scales, (out,), under the name of the weight, such as
    ``conv1.weight``.  The output of the network is not scaled: without ``groups``, that is the
    last layer the model registers.

    Args:
        strength, form, keep, groups: see :class:`~thrifty.pruning.gates.shrinkage.Shrunk`.
        init: where scales begin; 1 (or ``None``) leaves the outputs as they are, which a
            trained network needs, and 0.5 separates sooner from scratch.

    References:
        Liu et al., Learning Efficient Convolutional Networks through Network Slimming, 2017,
        https://arxiv.org/abs/1708.06519 (section 3, scales without batch normalisation)
    """

    def __init__(
        self,
        *,
        strength: float = 1e-4,
        form: Form = "proximal",
        init: float | None = 1.0,
        keep: Sequence[str] | str = (),
        groups: Groups | None = None,
    ):
        super().__init__(strength, form, keep, groups)
        self.init = beginning(init) or 1.0

    def attach(self, model: nn.Module) -> None:
        """In place: a parameter ``channel_gate``, (out,), in every gated layer."""
        vacant(model, _NAME)
        for name, module in model.named_modules():
            if isinstance(module, _UNSCALED):
                raise UserError(
                    f"{name} is a {type(module).__name__}, which undoes any scale before it; use "
                    f"the gate bn_scale, which trains the scales that it has"
                )
        found = places(model, LAYERS, self.keep, self.groups)
        for name, module in found.items():
            if not any(type(module).forward is kind.forward for kind in LAYERS):
                raise UserError(
                    f"{name} is a {type(module).__name__}, whose own forward may not be scaled "
                    f"through its weight; leave it out with keep=[{name!r}]"
                )
        for module in found.values():
            weight = module.weight
            assert isinstance(weight, Tensor)
            start = weight.detach().new_full((width(module),), self.init)
            module.register_parameter(_NAME, nn.Parameter(start))
            module.register_buffer(_RAN, torch.zeros((), dtype=torch.bool, device=weight.device))
            hook(module, _scaled)

    def variables(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The scales."""
        return {f"{n}.{_NAME}".lstrip("."): _gate(m) for n, m in holding(model, _NAME).items()}

    def scores(self, model: nn.Module) -> dict[str, Tensor]:
        """Parameter name of a weight -> absolute scales of its output channels, (out,)."""
        found = called(model, _NAME, _RAN)
        return {weight_name(n): _gate(m).detach().abs() for n, m in found.items()}

    @torch.no_grad()
    def fold(self, model: nn.Module) -> None:
        """In place: multiply weights and biases by the scales, and take these out."""
        for module in called(model, _NAME, _RAN).values():
            gate, weight = _gate(module).detach(), module.weight
            assert isinstance(weight, Tensor)
            weight.copy_(rows_scaled(module, weight, gate) + 0.0)  # + 0.0: no -0.0 is left
            if isinstance(module.bias, Tensor):
                module.bias.mul_(gate).add_(0.0)
        for module in holding(model, _NAME).values():
            delattr(module, _NAME)
            delattr(module, _RAN)
            unhook(module, _scaled)


def _gate(module: nn.Module) -> nn.Parameter:
    gate = getattr(module, _NAME)
    assert isinstance(gate, nn.Parameter)
    return gate


def _scaled(module: nn.Module, inputs: tuple[object, ...], output: Tensor) -> Tensor:
    """The hook: ``output``, (batch, out, *size) or (*batch, out), times the scale of a channel."""
    module.get_buffer(_RAN).fill_(True)
    size = 0 if isinstance(module, nn.Linear) else len(module.kernel_size)  # type: ignore[arg-type]
    return output * _gate(module).to(output.dtype).view(-1, *[1] * size)


def rows_scaled(module: nn.Module, weight: Tensor, gate: Tensor) -> Tensor:
    """``weight`` times the scale of the output channel that each element is for."""
    if not isinstance(module, nn.modules.conv._ConvTransposeNd):
        return weight * gate.view(-1, *[1] * (weight.dim() - 1))
    # a transposed convolution holds (in, out / groups, *kernel), group after group along in
    parts = module.groups
    split = weight.reshape(parts, weight.shape[0] // parts, weight.shape[1], -1)
    assert math.prod(split.shape) == weight.numel()
    return (split * gate.view(parts, 1, -1, 1)).reshape(weight.shape)

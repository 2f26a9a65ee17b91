"""L0 regularisation of output channels: hard concrete gates behind layers, or behind their norms.

Batch normalisation undoes whatever scales a channel before it, so a channel that is normalised at
once is gated behind the norm, and the gate is folded into the norm's scale and shift.  All other
gates are folded into the weight and bias of the layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thrifty.channels.groups import Groups
from thrifty.errors import UserError
from thrifty.pruning.gates import GATES
from thrifty.pruning.gates.channel_scale import rows_scaled
from thrifty.pruning.gates.forwards import finite
from thrifty.pruning.gates.hard_concrete import chance, sampled, settled
from thrifty.pruning.gates.l0 import Priced
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

_NAME, _RAN = "l0_log_alpha", "l0_ran"
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


@GATES.entry("l0_channels")
class L0Channels(Priced):
    """L0 on output channels, by hard concrete gates that are drawn for every input.

    Scores are P(z != 0), (out,), by the weight that makes the channels; a threshold is such a
    probability, 0.5 as usual.  Without ``groups``, all layers but the last are gated, and a
    network with batch normalisation is refused: only groups tell which norm follows a layer.

    Args:
        strength: price of a weight, 0 or more; strength / inputs * the expected number of
            weights in channels whose gate is not zero is added to the mean loss.
        rate: chance of a gate to be shut where training begins; small for a trained network.
        inputs: number of training inputs.
        keep: patterns of layers that are left alone; in a text, separated by commas.
        groups: channels of the network; only those that may be cut are gated.

    References:
        Louizos et al., Learning Sparse Neural Networks through L0 Regularization, 2018,
        https://arxiv.org/abs/1712.01312 (section 2.2, groups of weights)
    """

    def __init__(
        self,
        *,
        strength: float = 0.1,
        rate: float = 0.1,
        inputs: int | None = None,
        keep: Sequence[str] | str = (),
        groups: Groups | None = None,
    ):
        super().__init__(strength, rate, inputs, keep)
        self.groups = groups

    def attach(self, model: nn.Module) -> None:
        """In place: a parameter ``l0_log_alpha``, (out,), behind every gated layer.

        Raises:
            UserError: no layer can be gated, one is already, ``inputs`` is not known, or norms
                are there and no groups.
        """
        self._known()
        vacant(model, _NAME)
        for layer, site in self._sites(model).values():
            if _NAME in site._parameters:
                continue  # behind another layer too
            weight = layer.get_parameter("weight")
            start = self._begin(weight.detach().new_empty(width(layer)))
            site.register_parameter(_NAME, nn.Parameter(start))
            site.register_buffer(_RAN, torch.zeros((), dtype=torch.bool, device=weight.device))
            hook(site, _gated)

    def variables(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The locations of the gates."""
        return {f"{n}.{_NAME}".lstrip("."): _location(m) for n, m in holding(model, _NAME).items()}

    def penalty(self, model: nn.Module, progress: float) -> Tensor | None:
        """strength / inputs * the expected number of weights in channels that are not shut."""
        terms = []
        for layer, site in self._used(model).values():
            behind = layer.get_parameter("weight").numel() / width(layer)
            terms.append(behind * chance(_location(site)).sum())
        return self._penalty(terms)

    def scores(self, model: nn.Module) -> dict[str, Tensor]:
        """Name of a weight -> P(z != 0) of its channels, (out,).

        Raises:
            UserError: a gate is NaN.
        """
        return {
            weight_name(name): chance(finite(name, _location(site), "the gates"))
            for name, (_, site) in self._used(model).items()
        }

    @torch.no_grad()
    def fold(self, model: nn.Module) -> None:
        """In place: multiply scales and shifts by the gates, without noise, and take these out.

        Raises:
            UserError: a gate is NaN.
        """
        self.scores(model)
        for site in called(model, _NAME, _RAN).values():
            gate, weight = settled(_location(site)), site.get_parameter("weight")
            scaled = weight * gate if isinstance(site, _NORMS) else rows_scaled(site, weight, gate)
            weight.copy_(scaled + 0.0)  # + 0.0: no -0.0 is left
            if isinstance(site.bias, Tensor):
                site.bias.mul_(gate).add_(0.0)
        for site in holding(model, _NAME).values():
            delattr(site, _NAME)
            delattr(site, _RAN)
            unhook(site, _gated)

    def _used(self, model: nn.Module) -> dict[str, tuple[nn.Module, nn.Module]]:
        """Of :meth:`_sites`, those with a gate that was called; all if none was yet."""
        found = {id(site) for site in called(model, _NAME, _RAN).values()}
        return {n: pair for n, pair in self._sites(model).items() if id(pair[1]) in found}

    def _sites(self, model: nn.Module) -> dict[str, tuple[nn.Module, nn.Module]]:
        """Name of a layer -> the layer, and the module behind which its channels are gated."""
        found = places(model, LAYERS, self.keep, self.groups)
        if self.groups is None:
            for name, module in model.named_modules():
                if isinstance(module, _NORMS):
                    raise UserError(
                        f"{name} is a {type(module).__name__}, which undoes any gate before it; "
                        f"give groups=thrifty.groups(model, example), so that gates go behind it"
                    )
            return {name: (layer, layer) for name, layer in found.items()}
        after = self.groups.norm_after
        return {
            name: (layer, _norm(model, after.get(weight_name(name))) or layer)
            for name, layer in found.items()
        }


def _norm(model: nn.Module, running_mean: str | None) -> nn.Module | None:
    """The norm that has those statistics, if it also has a scale to fold a gate into."""
    if running_mean is None:
        return None
    module = model.get_submodule(running_mean.rpartition(".")[0])
    return module if isinstance(getattr(module, "weight", None), nn.Parameter) else None


def _location(site: nn.Module) -> nn.Parameter:
    return site.get_parameter(_NAME)


def _gated(module: nn.Module, inputs: tuple[object, ...], output: Tensor) -> Tensor:
    """The hook: ``output``, (batch, out, *size) or (batch, *, out), times gates of its channels."""
    module.get_buffer(_RAN).fill_(True)
    channel = output.dim() - 1
    if isinstance(module, _NORMS):
        channel = 1
    elif not isinstance(module, nn.Linear):  # an input that is no batch has a dimension less
        channel -= len(module.kernel_size)  # type: ignore[arg-type]
    shape = [1] * output.dim()
    shape[channel] = -1
    where = _location(module).to(output.dtype).view(shape)
    if not module.training:
        return output * settled(where)
    batch = output.shape[0] if channel > 0 else 1  # every input of a batch draws its own
    return output * sampled(where.expand(max(batch, where.shape[0]), *where.shape[1:]))

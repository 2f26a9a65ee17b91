"""Sparse variational dropout: every weight learns how much noise it bears, and noise goes.

The noise is put on what a layer returns (see ``posterior``), in training only; in eval mode the
network computes with theta, and with zero where log alpha has reached the threshold.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.pruning.gates import GATES, Gate
from thrifty.pruning.gates.forwards import (
    computed,
    empty,
    finite,
    learnt,
    put_back,
    put_in,
    used,
    variables,
)
from thrifty.pruning.gates.placing import listed, weight_name, weight_places
from thrifty.pruning.gates.posterior import divergence, log_alpha, noisy
from thrifty.pruning.gates.shrinkage import number
from thrifty.registry import suggest

Preset = Literal["elbo", "zoo"]
PRESETS = ("elbo", "zoo")
ZOO_EPOCHS = 25
ZOO_LIMIT, ZOO_LINEAR_LIMIT = 8.0, 10.0
LOWEST = -1e4
"""The score of a weight that is zero: under those of all others."""

_NAME, _BIAS = "log_sigma_square", "log_sigma_square_bias"


@GATES.entry("variational")
class Variational(Gate):
    """Variational dropout with a rate for every weight; weights that are mostly noise go.

    Scores are -log alpha, the shape of the weight; a threshold is the log alpha from which on
    weights go, 3 as published (a dropout rate of 0.95).  log sigma^2, which is
    ``weight_gate.log_sigma_square`` in each layer, has to go a long way on small gradients:
    train with ``optimizer: adam``, which makes steps of the learning rate whatever they are.

    Args:
        preset: ``elbo`` adds KL / inputs to the mean loss, which is the bound that theory gives,
            with warm-up, and does not decay log sigma^2.  ``zoo`` is the schedule of the published
            code for sparsified model zoos, its quirks kept: min(1, 0.01 * epoch / 25) * KL,
            biases of convolutions with noise of their own, weight decay on log sigma^2, and log
            alpha clipped to 8 in convolutions and 10 in linear layers, in the noise as well.  It
            weighs the KL term far more than theory, and is for networks of some thousand weights.
        strength: multiplies the KL term, 0 or more.
        threshold: log alpha from which on a weight is zero in eval mode and after ``fold``.
        init: where log sigma^2 begins.
        warmup: share of the training over which ``elbo`` comes to its full weight, the first
            quarter of it at 0.
        inputs: number of training inputs; ``elbo`` needs it.
        epochs: of the training; ``zoo`` counts in them.
        keep: patterns of layers that are left alone; in a text, separated by commas.

    References:
        Molchanov et al., Variational Dropout Sparsifies Deep Neural Networks, 2017,
        https://arxiv.org/abs/1701.05369
        Schuerholt et al., Sparsified Model Zoo Twins, 2023, https://arxiv.org/abs/2304.13718 (zoo)
    """

    unit = "weight"

    def __init__(
        self,
        *,
        preset: Preset = "elbo",
        strength: float = 1.0,
        threshold: float = 3.0,
        init: float = -10.0,
        warmup: float = 0.1,
        inputs: int | None = None,
        epochs: int | None = None,
        keep: Sequence[str] | str = (),
    ):
        if preset not in PRESETS:
            raise UserError(f"no preset is called {preset!r}; {suggest(str(preset), PRESETS)}")
        self.preset = preset
        self.strength = number("strength", strength, least=0.0)
        self.threshold = -self.cutoff(threshold)
        self.init = number("init", init, least=-60.0)
        self.warmup = number("warmup", warmup, least=0.0)
        if self.warmup > 1:
            raise UserError(f"the gate has warmup={warmup:g}; give a share of the training, 0 to 1")
        self.inputs = None if inputs is None else number("inputs", inputs, least=1.0)
        self.epochs = ZOO_EPOCHS if epochs is None else number("epochs", epochs, least=0.0)
        self.keep = listed(keep)

    def attach(self, model: nn.Module) -> None:
        """In place: ``weight_gate.log_sigma_square`` like the weight, in every gated layer.

        Raises:
            UserError: no layer can be gated, one is already, or ``inputs`` is not known.
        """
        if self.preset == "elbo" and self.inputs is None:
            raise UserError(
                "variational weighs its KL term by 1 / training inputs and was not told how many "
                "there are; give inputs=..., or preset=zoo, which does not ask"
            )
        empty(model)
        zoo = self.preset == "zoo"
        put_in(
            weight_places(model, self.keep), self._begin, _forward,
            zoo=zoo, threshold=self.threshold,
        )  # fmt: skip

    def _begin(self, module: nn.Module) -> dict[str, Tensor]:
        """log sigma^2 of the weight, and of the bias if that has noise of its own."""
        found = {_NAME: torch.full_like(module.get_parameter("weight"), self.init)}
        bias = module.bias
        if self.preset == "zoo" and not isinstance(module, nn.Linear) and isinstance(bias, Tensor):
            found[_BIAS] = torch.full_like(bias, self.init)
        return found

    def variables(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """log sigma^2 of every layer; none of the preset zoo, which decays them."""
        found = variables(model)
        return {} if self.preset == "zoo" else found

    def penalty(self, model: nn.Module, progress: float) -> Tensor | None:
        """The KL divergence of all weights, weighted for a loss that is a mean over inputs."""
        weight = self.strength * self._share(progress)
        if not weight:
            return None
        zoo = self.preset == "zoo"
        by_limit: dict[float | None, list[tuple[nn.Parameter, nn.Parameter]]] = {}
        for module in used(model).values():
            by_limit.setdefault(_limit(module, zoo), []).extend(_pairs(module))
        terms = [
            divergence(theta, spread, limit)
            for limit, pairs in by_limit.items()
            for theta, spread in _joined(pairs)
        ]
        return weight * torch.stack(terms).sum()

    def scores(self, model: nn.Module) -> dict[str, Tensor]:
        """Name of a weight -> -log alpha of each, the shape of the weight.

        Raises:
            UserError: log sigma^2 of a layer has NaN.
        """
        found = {}
        for name, module in used(model).items():
            theta = module.get_parameter("weight").detach()
            spread = finite(name, _pairs(module)[0][1], "log sigma^2")
            worth = -log_alpha(finite(name, theta, "the weight"), spread)
            found[weight_name(name)] = worth.masked_fill(theta == 0, LOWEST)
        return found

    def cutoff(self, threshold: float) -> float:
        """-threshold: weights stay whose log alpha is less.

        Raises:
            UserError: no number, or outside -60..60.
        """
        if number("threshold", threshold, least=-60.0) > 60:
            raise UserError(
                f"the gate has threshold={threshold:g}, a log alpha that no weight reaches; 3 is "
                f"usual"
            )
        return -float(threshold)

    @torch.no_grad()
    def fold(self, model: nn.Module) -> None:
        """In place: weights are zero where log alpha has reached the threshold; the rest goes.

        Raises:
            UserError: log sigma^2 of a layer has NaN.
        """
        self.scores(model)
        for module in used(model).values():
            for theta, spread in _pairs(module):
                theta.copy_(_clipped(theta, spread, self.threshold))
        put_back(model)

    def _share(self, progress: float) -> float:
        """Weight of the KL term, for a loss that is a mean over inputs."""
        if self.preset == "zoo":
            return min(1.0, 0.01 * int(progress * self.epochs + 1e-6) / ZOO_EPOCHS)
        assert self.inputs is not None
        quarter = self.warmup / 4
        rise = (progress - quarter) / (self.warmup - quarter) if self.warmup else 1.0
        return min(1.0, max(0.0, rise)) / self.inputs


def _limit(module: nn.Module, zoo: bool) -> float | None:
    """Between which bounds log alpha is taken; theory has none, and no formula here needs them."""
    return (ZOO_LINEAR_LIMIT if isinstance(module, nn.Linear) else ZOO_LIMIT) if zoo else None


def _pairs(module: nn.Module) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """(theta, log sigma^2) of the weight, and of the bias if that has noise."""
    found, own = learnt(module), module._parameters
    return [(own[a], found[b]) for a, b in (("weight", _NAME), ("bias", _BIAS)) if b in found]  # type: ignore[misc]


def _joined(
    pairs: list[tuple[nn.Parameter, nn.Parameter]], least: int = 1 << 18
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same numbers in fewer, longer tensors: short ones cost their overhead many times."""
    thetas: list[Tensor] = []
    spreads: list[Tensor] = []
    size = 0
    for theta, spread in pairs:
        if theta.numel() >= least:
            yield theta, spread
            continue
        thetas.append(theta.reshape(-1))
        spreads.append(spread.reshape(-1))
        size += theta.numel()
        if size >= least:
            yield torch.cat(thetas), torch.cat(spreads)
            thetas, spreads, size = [], [], 0
    if thetas:
        yield torch.cat(thetas), torch.cat(spreads)


def _clipped(theta: Tensor, spread: Tensor, threshold: float) -> Tensor:
    """``theta``, and zero where log alpha has reached ``threshold``."""
    return theta.masked_fill(log_alpha(theta, spread) >= threshold, 0.0)


def _forward(module: nn.Module, inputs: Tensor, *, zoo: bool, threshold: float) -> Tensor:
    """The forward of a gated layer."""
    pairs = _pairs(module)

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return computed(module, x, weight, bias)

    bias = module.bias if isinstance(module.bias, Tensor) else None
    if not module.training:
        clear = [_clipped(*pair, threshold) for pair in pairs]
        return compute(inputs, clear[0], clear[1] if len(clear) > 1 else bias)
    if not zoo:
        theta, spread = pairs[0]
        return noisy(compute, inputs, theta, spread.exp(), bias)
    limit = _limit(module, zoo)
    variances = [log_alpha(*pair, limit).exp() * pair[0].square() for pair in pairs]
    noise = variances[1] if len(variances) > 1 else None
    return noisy(compute, inputs, pairs[0][0], variances[0], bias, noise)

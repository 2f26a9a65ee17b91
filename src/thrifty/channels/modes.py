"""Running a network in eval mode, or as in training, and leaving it as it was.

Some networks run modules in training only, such as auxiliary heads.  Where these are followed or
compared, a copy runs in training mode without what makes two runs differ: norms and dropout stay
in eval mode, in which they do the same to channels, and what is drawn at random is replaced by
its mean.  So the network is not changed, one input is enough, and a channel that is gone does not
move the draws of the others.
"""

import contextlib
import copy
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

STILL = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.RReLU)
"""Modules that draw lots or keep statistics in training and treat channels alike in eval mode."""

_DROPOUTS = {
    f"{kind}dropout{suffix}"
    for kind in ("", "alpha_", "feature_", "feature_alpha_")
    for suffix in ("", "_", "1d", "2d", "3d")
}


class Means(TorchFunctionMode):
    """What is drawn while this is on is its mean: dropout changes nothing, noise is constant."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The operation, or what it gives in the mean."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        x = args[0] if args else kwargs.get("input")
        if name in _DROPOUTS:
            return x
        if isinstance(x, Tensor) and name in _MEANS:
            return _MEANS[name](x, *args[1:], **kwargs)
        return func(*args, **kwargs)


def _bernoulli(x: Tensor, p: float | None = None, **_: Any) -> Tensor:
    return x.clone() if p is None else torch.full_like(x, p)


def _bernoulli_(x: Tensor, p: Tensor | float = 0.5, **_: Any) -> Tensor:
    return x.zero_().add_(p) if isinstance(p, Tensor) else x.fill_(p)


def _uniform_(x: Tensor, low: float = 0.0, high: float = 1.0, **bounds: Any) -> Tensor:
    return x.fill_((bounds.get("from", low) + bounds.get("to", high)) / 2)


def _normal_(x: Tensor, mean: float = 0.0, *_: Any, **__: Any) -> Tensor:
    return x.fill_(mean)


_MEANS: dict[str, Any] = {
    "bernoulli": _bernoulli,
    "bernoulli_": _bernoulli_,
    "uniform_": _uniform_,
    "normal_": _normal_,
    "rand_like": lambda x, **_: torch.full_like(x, 0.5),
    "randn_like": lambda x, **_: torch.zeros_like(x),
}


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a block; every module is put back into the mode it had."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


@contextlib.contextmanager
def in_training(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of ``model`` to run as in training, giving the same numbers every time."""
    twin = copy.deepcopy(model).train()
    for module in twin.modules():
        if isinstance(module, STILL):
            module.training = False
    devices = sorted({p.device.index or 0 for p in twin.parameters() if p.is_cuda})
    drawn = random.getstate()
    with torch.random.fork_rng(devices), Means():
        torch.default_generator.manual_seed(0)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(0)
        random.seed(0)
        try:
            yield twin
        finally:
            random.setstate(drawn)

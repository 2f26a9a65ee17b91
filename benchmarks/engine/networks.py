"""The five networks whose speed is measured, pruned by magnitude.

ResNet-20 has its published weights where THRIFTY_DATA names a folder with them.  The others are
drawn: He's scale, times a factor for each filter and each input channel, so that as in trained
networks some rows keep many weights and some few.  After the cut, batch normalisation measures
its statistics on inputs, for activations to have the scale they have in use.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thrifty

SPREAD = 0.3
"""Standard deviation of the logarithm of a filter's and of a channel's factor."""
WEIGHTS = Path("weights") / "cifar10" / "resnet20-12fca82f.th"


@dataclass(frozen=True)
class Network:
    """A network to measure."""

    title: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    first: str
    last: str
    """Names of the first convolution and of the classifier, which a uniform cut leaves whole."""
    calibration: int = 64
    """Inputs on which batch normalisation measures its statistics."""


class Wide(nn.Module):
    """A residual network of 4 blocks a stage, 64, 128 and 256 channels, for 32x32 pictures."""

    def __init__(self, blocks: int = 4, channels: tuple[int, ...] = (64, 128, 256)):
        super().__init__()
        self.stem = _conv_bn(3, 16, 3)
        layers: list[nn.Module] = []
        inputs = 16
        for stage, outputs in enumerate(channels):
            for block in range(blocks):
                stride = 2 if block == 0 and stage > 0 else 1
                layers.append(Residual(inputs, outputs, stride))
                inputs = outputs
        self.blocks = nn.Sequential(*layers)
        self.linear = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (batch, 10)."""
        x = self.blocks(F.relu(self.stem(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut, a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.one = _conv_bn(inputs, outputs, 3, stride)
        self.two = _conv_bn(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both paths, after ReLU."""
        return F.relu(self.two(F.relu(self.one(x))) + self.shortcut(x))


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


def _resnet20() -> nn.Module:
    """With the published weights, which are trained, or without."""
    file = Path(os.environ.get("THRIFTY_DATA", "")) / WEIGHTS
    if os.environ.get("THRIFTY_DATA") and file.is_file():
        return thrifty.resolve("resnet20", weights=file)
    return drawn(thrifty.resolve("resnet20"))


NETWORKS = {
    "resnet20": Network("ResNet-20 CIFAR", _resnet20, (3, 32, 32), "conv1", "linear"),
    "wrn": Network("WRN 64/128/256 CIFAR", lambda: drawn(Wide()), (3, 32, 32), "stem.0", "linear"),
    "vgg16": Network(
        "VGG-16 CIFAR",
        lambda: drawn(thrifty.resolve("vgg16_bn")),
        (3, 32, 32),
        "features.0",
        "classifier",
    ),
    "resnet50": Network(
        "ResNet-50 at 224",
        lambda: drawn(thrifty.resolve("torchvision:resnet50")),
        (3, 224, 224),
        "conv1",
        "fc",
        calibration=4,
    ),
    "highway": Network(
        "full highway network",
        lambda: drawn(thrifty.resolve("highway")),
        (3, 32, 32),
        "stem",
        "linear",
    ),
}


@torch.no_grad()
def drawn(model: nn.Module) -> nn.Module:
    """In place: weights of a realistic scale and spread, and batch normalisation not at rest."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            w = module.weight
            rest = (1,) * (w.dim() - 2)
            rows = (SPREAD * normal(w.shape[0], 1, *rest)).exp()
            columns = (SPREAD * normal(1, w.shape[1], *rest)).exp()
            fan_in = w[0].numel()
            w.copy_(normal(*w.shape) * (2 / fan_in) ** 0.5 * rows * columns)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.copy_(1 + 0.2 * normal(module.num_features))
            module.bias.copy_(0.1 * normal(module.num_features))
    return model


@torch.no_grad()
def calibrated(model: nn.Module, x: Tensor) -> nn.Module:
    """In place: batch normalisation with the statistics of ``x``; in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean of all batches seen
    model.train()(x)
    return model.eval()


def pruned(name: str, sparsity: float, allocation: str = "uniform") -> nn.Module:
    """The network ``name`` of :data:`NETWORKS` with a share of its weights zero, in eval mode.

    Args:
        sparsity: share of the weights that the cut may touch; 0 cuts nothing.
        allocation: ``"uniform"`` cuts every layer alike but the first convolution and the
            classifier; any other of ``thrifty allocations``, such as ``"global"``, cuts all.
    """
    chosen = NETWORKS[name]
    torch.manual_seed(0)
    model = chosen.build()
    if sparsity:
        keep = (chosen.first, chosen.last) if allocation == "uniform" else ()
        thrifty.prune(model, "magnitude", sparsity, allocation=allocation, keep=keep)
    x = torch.randn(chosen.calibration, *chosen.shape, generator=torch.Generator().manual_seed(1))
    return calibrated(model, x)

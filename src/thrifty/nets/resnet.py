"""The residual networks for 32x32 images: 6n + 2 layers in three stages of 16, 32, 64 channels.

Where a stage halves the image, the shortcut takes every second pixel and fills the new channels
with zeros (``shortcut=zeros``, the paper's option A, no weights) or is a 1x1 convolution with
BatchNorm (``shortcut=projection``, option B).  Both forms are published under the name resnet20;
the names of the tensors are those that the published CIFAR-10 checkpoints use.

References:
    He et al., Deep Residual Learning for Image Recognition, 2015, section 4.2,
    https://arxiv.org/abs/1512.03385
"""

import functools

import torch.nn.functional as F
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.nets.architecture import NETS
from thrifty.nets.limits import check, image, initialise, scaled

SHORTCUTS = ("zeros", "projection")


class Zeros(nn.Module):
    """A shortcut without weights: every second pixel, zeros for the channels that are new."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        new = outputs - inputs
        self.before, self.after, self.stride = new // 2, new - new // 2, stride

    def forward(self, x: Tensor) -> Tensor:
        """Padded with channels before and after, (batch, outputs, height, width)."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class Block(nn.Module):
    """Two 3x3 convolutions and the shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            if shortcut == "zeros":
                self.downsample = Zeros(inputs, outputs, stride)
            else:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both paths, after ReLU."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x))


class ResNet(nn.Module):
    """A 3x3 stem, three stages of ``blocks`` blocks, the mean over the image, one linear layer."""

    def __init__(self, blocks: int, classes: int, channels: int, width: float, shortcut: str):
        super().__init__()
        sizes = [scaled(c, width) for c in (16, 32, 64)]
        self.conv1 = nn.Conv2d(channels, sizes[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(sizes[0])
        stages = []
        inputs = sizes[0]
        for stage, outputs in enumerate(sizes):
            strides = [1 if stage == 0 else 2] + [1] * (blocks - 1)
            layers = []
            for stride in strides:
                layers.append(Block(inputs, outputs, stride, shortcut))
                inputs = outputs
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3 = stages
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (batch, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.pool(x).flatten(1))  # type: ignore[no-any-return]


def resnet(
    depth: int,
    *,
    classes: int = 10,
    shape: tuple[int, ...] = (3, 32, 32),
    width: float = 1.0,
    shortcut: str = "zeros",
) -> nn.Module:
    """The residual network of ``depth`` layers; 6 must divide ``depth - 2``."""
    name = f"resnet{depth}"
    check(name, classes, width)
    channels, _, _ = image(name, shape, least=4)
    if shortcut not in SHORTCUTS:
        raise UserError(f"{name} has shortcut={shortcut!r}; it is one of {', '.join(SHORTCUTS)}")
    model = ResNet((depth - 2) // 6, classes, channels, width, shortcut)
    initialise(model)
    return model


for _depth in (20, 32, 44, 56, 110):
    _fn = functools.partial(resnet, _depth)
    _fn.about = f"Residual network of {_depth} layers for 32x32 images (He et al., 2015)"  # type: ignore[attr-defined]
    NETS.add(f"resnet{_depth}", _fn)

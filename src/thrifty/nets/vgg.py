"""VGG with BatchNorm in its CIFAR form: five stages, each halved, and one linear layer.

Convolutions have no bias, for BatchNorm would take it out again.

References:
    Simonyan and Zisserman, Very Deep Convolutional Networks, 2014,
    https://arxiv.org/abs/1409.1556
    Liu et al., Network Slimming, 2017, https://arxiv.org/abs/1708.06519 (the CIFAR form)
"""

import functools
from collections import OrderedDict

from torch import nn

from thrifty.nets.architecture import NETS
from thrifty.nets.limits import check, image, initialise, scaled

CHANNELS = (64, 128, 256, 512, 512)
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions of every stage, by the number of layers in the name."""


def vgg_bn(
    depth: int, *, classes: int = 10, shape: tuple[int, ...] = (3, 32, 32), width: float = 1.0
) -> nn.Module:
    """VGG of ``depth`` layers for images from 32x32; what is left of a larger one is averaged."""
    name = f"vgg{depth}_bn"
    check(name, classes, width)
    channels, _, _ = image(name, shape, least=32)
    layers: list[nn.Module] = []
    for convolutions, size in zip(STAGES[depth], CHANNELS, strict=True):
        for _ in range(convolutions):
            outputs = scaled(size, width)
            layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
            channels = outputs
        layers += [nn.MaxPool2d(2)]
    model = nn.Sequential(
        OrderedDict(
            features=nn.Sequential(*layers),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(channels, classes),
        )
    )
    initialise(model)
    return model


for _depth in STAGES:
    _fn = functools.partial(vgg_bn, _depth)
    _fn.about = f"VGG of {_depth} layers with BatchNorm, CIFAR form (Simonyan and Zisserman, 2014)"  # type: ignore[attr-defined]
    NETS.add(f"vgg{_depth}_bn", _fn)

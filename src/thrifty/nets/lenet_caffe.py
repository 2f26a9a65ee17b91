"""The larger LeNet-5 that came with Caffe, on which many figures of sparsity were published.

References:
    Jia et al., Caffe, 2014, https://arxiv.org/abs/1408.5093
    Molchanov et al., Variational Dropout Sparsifies Deep Neural Networks, 2017,
    https://arxiv.org/abs/1701.05369
"""

import math
from collections import OrderedDict

from torch import nn

from thrifty.nets.architecture import net
from thrifty.nets.limits import check, image, initialise, scaled


@net("lenet_caffe")
def lenet_caffe(
    *, classes: int = 10, shape: tuple[int, ...] = (1, 28, 28), width: float = 1.0
) -> nn.Module:
    """LeNet-5 as in Caffe: 20 and 50 channels, 500 units; for images with sides from 8 to 64.

    Two 5x5 convolutions, each halved by pooling, which pad by 2 below 16x16 so that something is
    left; 430,500 weights for a 28x28 image.
    """
    check("lenet_caffe", classes, width)
    channels, height, side = image("lenet_caffe", shape, least=8, most=64)
    pad = 2 if min(height, side) < 16 else 0
    one, two, units = scaled(20, width), scaled(50, width), scaled(500, width)
    left = math.prod(((n + 2 * pad - 4) // 2 + 2 * pad - 4) // 2 for n in (height, side))
    model = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, one, 5, padding=pad),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(one, two, 5, padding=pad),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(two * left, units),
            relu3=nn.ReLU(),
            fc2=nn.Linear(units, classes),
        )
    )
    initialise(model)
    return model

"""LeNet-5, in the form the pruning literature uses, and the fully connected LeNet-300-100.

References:
    LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998,
    https://doi.org/10.1109/5.726791
    Han et al., Learning both Weights and Connections, 2015, https://arxiv.org/abs/1506.02626
"""

import math
from collections import OrderedDict

from torch import nn

from thrifty.errors import UserError
from thrifty.nets.architecture import net
from thrifty.nets.limits import check, image, initialise, scaled


@net("lenet")
def lenet(
    *, classes: int = 10, shape: tuple[int, ...] = (1, 28, 28), width: float = 1.0
) -> nn.Module:
    """LeNet-5 with ReLU and max-pooling, for images with sides from 8 to 64.

    Two 5x5 convolutions of 6 and 16 channels, each halved by pooling, then 120 and 84 units.
    So that the second pooling leaves something, the first convolution pads by 2 below 32x32,
    as is usual for MNIST, and the second too below 16x16: a 28x28 and a 32x32 image leave 5x5,
    an 8x8 image leaves 2x2.  Larger images only make the first linear layer larger.
    """
    check("lenet", classes, width)
    channels, height, side = image("lenet", shape, least=8, most=64)
    smallest = min(height, side)
    first, second = (2 if smallest < 32 else 0), (2 if smallest < 16 else 0)
    one, two = scaled(6, width), scaled(16, width)
    units, last = scaled(120, width), scaled(84, width)
    left = math.prod(((n + 2 * first - 4) // 2 + 2 * second - 4) // 2 for n in (height, side))
    model = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, one, 5, padding=first),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(one, two, 5, padding=second),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(two * left, units),
            relu3=nn.ReLU(),
            fc2=nn.Linear(units, last),
            relu4=nn.ReLU(),
            fc3=nn.Linear(last, classes),
        )
    )
    initialise(model)
    return model


@net("lenet_300_100")
def lenet_300_100(
    *, classes: int = 10, shape: tuple[int, ...] = (1, 28, 28), width: float = 1.0
) -> nn.Module:
    """Three linear layers, 300 and 100 hidden units; takes inputs of any shape."""
    check("lenet_300_100", classes, width)
    if not shape or min(shape) < 1:
        raise UserError(
            f"lenet_300_100 has shape={tuple(shape)}; give the shape of one input, such as 1x28x28"
        )
    one, two = scaled(300, width), scaled(100, width)
    model = nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(math.prod(shape), one),
            relu1=nn.ReLU(),
            fc2=nn.Linear(one, two),
            relu2=nn.ReLU(),
            fc3=nn.Linear(two, classes),
        )
    )
    initialise(model)
    return model

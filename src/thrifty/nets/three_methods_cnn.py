"""The small network on which three ways of pruning are compared: most weights are not in filters.

Its convolutions hold about an eighth of the weights, which is what makes single weights, whole
filters and slimmed channels give different fronts: cutting filters cuts the last linear layers too.
"""

import math
from collections import OrderedDict

from torch import nn

from thrifty.errors import UserError
from thrifty.nets.architecture import net
from thrifty.nets.limits import check, image, initialise, scaled

SHARE = 18_720 / 151_072
"""Share of the weights that convolutions hold, 12.4 %: that of 1x8x8 images and 128 units."""


@net("three_methods_cnn")
def three_methods_cnn(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = (3, 32, 32),
    width: float = 1.0,
    hidden: int | None = None,
) -> nn.Module:
    """Two 3x3 convolutions, 32 and 64 channels, pooling, and two linear layers.

    The image is halved once, and again as long as its smaller side is 8 or more, so that 8x8
    and 32x32 both leave 4x4.  Unless ``hidden`` is given, as many hidden units are taken as
    bring the share of the weights in convolutions nearest to 12.4 %.
    """
    check("three_methods_cnn", classes, width)
    channels, height, side = image("three_methods_cnn", shape, least=4)
    if hidden is not None and (not isinstance(hidden, int) or hidden < 1):
        raise UserError(
            f"three_methods_cnn has hidden={hidden!r}; give a whole number of units, 1 or more, "
            f"or leave it out"
        )
    one, two = scaled(32, width), scaled(64, width)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(channels, one, 3, padding=1),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(one, two, 3, padding=1),
        relu2=nn.ReLU(),
    )
    halvings = 0
    while halvings == 0 or min(height, side) >= 8:
        height, side, halvings = height // 2, side // 2, halvings + 1
        layers[f"pool{halvings}"] = nn.MaxPool2d(2)
    features = two * height * side
    if hidden is None:
        hidden = _hidden(9 * one * (channels + two), features + classes)
    layers.update(
        flatten=nn.Flatten(),
        fc1=nn.Linear(features, hidden),
        relu3=nn.ReLU(),
        fc2=nn.Linear(hidden, classes),
    )
    model = nn.Sequential(layers)
    initialise(model)
    return model


def _hidden(convolutions: int, per_unit: int) -> int:
    """Hidden units, each of ``per_unit`` weights, that bring the share nearest to SHARE."""
    exact = convolutions * (1 / SHARE - 1) / per_unit
    near = {max(1, math.floor(exact)), max(1, math.ceil(exact))}
    return min(near, key=lambda h: abs(convolutions / (convolutions + h * per_unit) - SHARE))

"""SqueezeNet v1.0: modules that squeeze to few channels, then expand with 1x1 and 3x3 filters.

The arithmetic is that of the published Caffe network: the first convolution pads nothing, and
pooling rounds the size up, so that a last window may hang over the edge.  The names of the tensors
are those of its Deep Compression file; ``conv1x1_1`` squeezes, ``conv1x1_2`` and ``conv3x3_2``
expand.  Published weights expect 227x227 pictures, blue first, 0..255 minus the mean
(``normalize=caffe``).

References:
    Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model
    size, 2016, https://arxiv.org/abs/1602.07360
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thrifty.nets.architecture import net
from thrifty.nets.limits import check, image, initialise, scaled

FIRE = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128)}
FIRE |= {6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}
"""Channels of the squeeze layer and of each of the two expand layers, by number."""

POOLED = ("conv1", "fire4", "fire8")
"""After these the picture is halved."""


class Fire(nn.Module):
    """A 1x1 convolution to few channels, then 1x1 and 3x3 filters side by side."""

    def __init__(self, inputs: int, squeezed: int, expanded: int):
        super().__init__()
        self.conv1x1_1 = nn.Conv2d(inputs, squeezed, 1)
        self.conv1x1_2 = nn.Conv2d(squeezed, expanded, 1)
        self.conv3x3_2 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Twice ``expanded`` channels, those of the 1x1 filters first, after ReLU."""
        x = F.relu(self.conv1x1_1(x))
        return F.relu(torch.cat([self.conv1x1_2(x), self.conv3x3_2(x)], 1))


@net("squeezenet")
def squeezenet(
    *, classes: int = 1000, shape: tuple[int, ...] = (3, 227, 227), width: float = 1.0
) -> nn.Module:
    """SqueezeNet v1.0 with Caffe's pooling, for images from 21x21; made for 227x227."""
    check("squeezenet", classes, width)
    channels, _, _ = image("squeezenet", shape, least=21)
    outputs = scaled(96, width)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(channels, outputs, 7, stride=2),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(3, 2, ceil_mode=True),
    )
    for number, sizes in FIRE.items():
        squeezed, expanded = (scaled(size, width) for size in sizes)
        layers[f"fire{number}"] = Fire(outputs, squeezed, expanded)
        outputs = 2 * expanded
        if f"fire{number}" in POOLED:
            layers[f"pool{number}"] = nn.MaxPool2d(3, 2, ceil_mode=True)
    layers["dropout"] = nn.Dropout(0.5)
    layers["conv_final"] = last = nn.Conv2d(outputs, classes, 1)
    layers["relu_final"] = nn.ReLU()
    layers["pool_final"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    model = nn.Sequential(layers)
    initialise(model)
    nn.init.normal_(last.weight, std=0.01)
    return model

"""ResNet-18 for small images: four stages of two blocks, a 3x3 stem without stride or pooling.

Tensors have the names of torchvision's resnet18, of which this is the form for 32x32 and 64x64
images, so that zoos of such networks that others published load as they are.

References:
    He et al., Deep Residual Learning for Image Recognition, 2015, https://arxiv.org/abs/1512.03385
    Schuerholt et al., Model Zoos: A Dataset of Diverse Populations of Neural Network Models, 2022,
    https://arxiv.org/abs/2209.14764 (its ResNet zoos)
"""

import torch.nn.functional as F
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.nets.architecture import net
from thrifty.nets.limits import check, image, scaled
from thrifty.nets.resnet import Block
from thrifty.nets.zoo_cnn import INITS
from thrifty.registry import suggest

STAGES = (64, 128, 256, 512)


class ResNet18(nn.Module):
    """Stem, eight blocks, the mean over the image, dropout if any, one linear layer."""

    def __init__(self, classes: int, channels: int, width: float, dropout: float):
        super().__init__()
        sizes = [scaled(wide, width) for wide in STAGES]
        self.conv1 = nn.Conv2d(channels, sizes[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(sizes[0])
        stages, inputs = [], sizes[0]
        for stage, outputs in enumerate(sizes):
            first = Block(inputs, outputs, 1 if stage == 0 else 2, "projection")
            stages.append(nn.Sequential(first, Block(outputs, outputs, 1, "projection")))
            inputs = outputs
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.drop: nn.Module = nn.Dropout(dropout) if dropout else nn.Identity()
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (batch, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.avgpool(x).flatten(1)
        return self.fc(self.drop(x))  # type: ignore[no-any-return]


@net("resnet18_cifar")
def resnet18_cifar(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = (3, 32, 32),
    width: float = 1.0,
    init: str = "kaiming_uniform",
    dropout: float = 0.0,
) -> nn.Module:
    """ResNet-18 for images of 32x32 and 64x64: 3x3 stem, no max-pooling (He et al., 2015)."""
    name = "resnet18_cifar"
    check(name, classes, width)
    channels, _, _ = image(name, shape, least=8)
    if init not in INITS:
        raise UserError(f"{name} has init={init!r}; {suggest(str(init), INITS)}")
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UserError(f"{name} has dropout={dropout!r}; it is a share, 0 or more and under 1")
    model = ResNet18(classes, channels, width, float(dropout))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            INITS[init](module.weight)
            if module.bias is not None:
                nn.init.constant_(module.bias, 0.01)
    return model

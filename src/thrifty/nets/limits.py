"""What a network can be asked for: checks that every architecture shares, and widths."""

from collections.abc import Sequence

from torch import nn

from thrifty.errors import UserError


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded, never less than one."""
    return max(1, round(channels * width))


def check(name: str, classes: int, width: float) -> None:
    """Refuse a number of classes or a width with which no network can be built.

    Raises:
        UserError: ``classes`` is no whole number of at least 2, or ``width`` is not positive.
    """
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        raise UserError(
            f"{name} has classes={classes!r}; "
            f"a classifier needs a whole number of classes, 2 or more"
        )
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < 1e6:
        raise UserError(
            f"{name} has width={width!r}; a width multiplies the number of channels and is a "
            f"number above 0, such as 0.5 or 2"
        )


def image(
    name: str, shape: Sequence[int], least: int, most: int | None = None
) -> tuple[int, int, int]:
    """``shape`` as (channels, height, width) if the sides lie within ``least`` and ``most``.

    Raises:
        UserError: it is not such a shape; the message says what is allowed.
    """
    allowed = f"sides from {least}" + (f" to {most}" if most else "")
    given = "x".join(map(str, shape))
    if len(shape) != 3:
        raise UserError(
            f"{name} works on images, and one input of shape ({given}) is none; give shape "
            f"(channels, height, width) with {allowed}, or use lenet_300_100, which takes any shape"
        )
    channels, height, width = shape
    if channels < 1 or min(height, width) < least or (most and max(height, width) > most):
        small = "three_methods_cnn" if min(height, width) >= 4 else "lenet_300_100"
        raise UserError(
            f"{name} takes images of {allowed} and at least one channel; {given} does not fit; "
            f"resize the images, or use a network for such a size, such as "
            f"{small if min(height, width) < least else 'resnet20'}"
        )
    return channels, height, width


def initialise(model: nn.Module) -> None:
    """In place: He's normal weights for convolutions and linear layers, biases zero.

    References:
        He et al., Delving Deep into Rectifiers, 2015, https://arxiv.org/abs/1502.01852
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

"""Mean and standard deviation by which inputs are normalised, and the order of their channels."""

import torch
from torch import Tensor

from thrifty.errors import UserError
from thrifty.registry import suggest

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE = (104 / 255, 117 / 255, 123 / 255), (1 / 255,) * 3
"""Of blue, green, red: inputs keep the scale of bytes, minus the mean of ILSVRC pictures."""
CHOICES = ("data", "imagenet", "caffe", "half", "none")

Moments = tuple[tuple[float, ...], tuple[float, ...]]


def moments(how: str, inputs: Tensor) -> Moments:
    """Mean and std for each channel (axis 1) of ``inputs``, of the choice called ``how``.

    Args:
        how: ``data`` (of these inputs), ``imagenet``, ``caffe`` (bytes minus (104, 117, 123)),
            ``half`` ((x - 0.5) / 0.5) or ``none``.
        inputs: (n, channels, ...), uint8 or floating, in the order of :func:`ordered`.
    """
    channels = inputs.shape[1]
    if how == "data":
        return _of_bytes(inputs) if inputs.dtype == torch.uint8 else _of_floats(inputs)
    if how == "half":
        return (0.5,) * channels, (0.5,) * channels
    if how == "none":
        return (0.0,) * channels, (1.0,) * channels
    if how not in ("imagenet", "caffe"):
        raise UserError(f"normalize is {how!r}; {suggest(how, CHOICES)}")
    if channels != 3:
        raise UserError(
            f"normalize={how} is for pictures of 3 channels, these have {channels}; "
            f"write normalize=data, half or none"
        )
    return IMAGENET if how == "imagenet" else CAFFE


def ordered(how: str, inputs: Tensor) -> Tensor:
    """``inputs`` with their channels in the order of ``how``: ``caffe`` has blue first."""
    return inputs.flip(1) if how == "caffe" and inputs.shape[1] == 3 else inputs


def _of_bytes(inputs: Tensor) -> Moments:
    """Exact whatever the number of threads: from the count of each of the 256 values."""
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(inputs.shape[1]):
        counts = torch.zeros(256, dtype=torch.int64)
        for part in torch.split(inputs, 8192):  # so that no large channel is copied whole
            counts += torch.bincount(part[:, channel].flatten(), minlength=256)
        weights = counts.double() / counts.sum()
        middle = (values * weights).sum()
        mean.append(float(middle))
        std.append(float(((values - middle).square() * weights).sum().sqrt()))
    return tuple(mean), _no_zero(std)


def _of_floats(inputs: Tensor) -> Moments:
    axes = [0, *range(2, inputs.dim())]
    per_channel = inputs.numel() // inputs.shape[1]
    parts = torch.split(inputs, 8192)
    mean = torch.stack([p.double().sum(axes) for p in parts]).sum(0) / per_channel
    shape = (-1,) + (1,) * (inputs.dim() - 2)
    spread = [(p.double() - mean.reshape(shape)).square().sum(axes) for p in parts]
    std = (torch.stack(spread).sum(0) / per_channel).sqrt()
    return tuple(mean.tolist()), _no_zero(std.tolist())


def _no_zero(std: list[float]) -> tuple[float, ...]:
    """A channel that never changes is left as it is instead of being divided by zero."""
    return tuple(s if s > 0 else 1.0 for s in std)

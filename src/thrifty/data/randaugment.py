"""RandAugment: every picture goes through a few operations drawn by lot, on a batch of bytes.

The pictures that drew one operation are worked on together, so a batch costs a few operations
of torch and not some for every picture.  Operations and ranges are those of the paper, whose
magnitudes go from 0 to 30; what is moved in from outside has a colour that the caller gives.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from thrifty.errors import UserError

MOST = 30.0
"""The highest magnitude."""
SPREAD = 0.5
"""Standard deviation of the magnitudes of single pictures around the one that is asked for."""
GEOMETRY = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")

Operation = Callable[[Tensor, Tensor], Tensor]
"""(k, channels, height, width) uint8 and strengths (k,) of -1 .. 1 -> pictures alike."""


def randaugment(
    pictures: Tensor,
    operations: int,
    magnitude: float,
    generator: torch.Generator,
    fill: Sequence[float] = (),
) -> Tensor:
    """Put every picture through ``operations`` operations, each drawn by lot for each picture.

    Magnitudes are drawn around ``magnitude``; what has a direction goes either way.

    Args:
        pictures: (n, channels, height, width) uint8; not changed.
        operations: how many, one after another; 0 does nothing.
        magnitude: 0..30, how strong they are.
        generator: the only source of randomness, on the CPU; the result does not depend on the
            device of ``pictures``.
        fill: the colour of what comes in from outside, one number of 0..255 a channel; black
            if not given.

    Raises:
        UserError: the inputs are not pictures of bytes.

    References:
        Cubuk et al., RandAugment, 2020, https://arxiv.org/abs/1909.13719; the spread of the
        magnitudes is that of timm (``mstd0.5``)
    """
    if pictures.dim() != 4 or pictures.dtype != torch.uint8:
        raise UserError(
            f"randaugment needs pictures of bytes, uint8 (n, channels, height, width), and these "
            f"inputs are {str(pictures.dtype).removeprefix('torch.')} {tuple(pictures.shape)}; "
            f"leave randaugment out"
        )
    n, channels = pictures.shape[:2]
    colour = torch.tensor(fill or (0.0,) * channels).round().clamp(0, 255).to(pictures)
    for _ in range(operations):
        kinds = torch.randint(1 + len(GEOMETRY) + len(POINTS), (n,), generator=generator)
        drawn = magnitude + SPREAD * torch.randn(n, generator=generator)
        sign = 2.0 * torch.randint(2, (n,), generator=generator) - 1.0
        pictures = apply(pictures, kinds, sign * drawn.clamp(0.0, MOST) / MOST, colour)
    return pictures


def apply(pictures: Tensor, kinds: Tensor, strength: Tensor, colour: Tensor) -> Tensor:
    """Put each of n pictures through the operation of its own kind.

    Args:
        pictures: (n, channels, height, width) uint8; not changed.
        kinds: (n,) on the CPU: 0 leaves a picture as it is, then ``GEOMETRY``, then ``POINTS``.
        strength: (n,) on the CPU, -1 .. 1.
        colour: (channels,) uint8, of what comes in from outside.
    """
    first = 1 + len(GEOMETRY)
    order = kinds.argsort(stable=True)
    kinds, strength, place = kinds[order], strength[order], order.to(pictures.device)
    counts = torch.bincount(kinds, minlength=first + len(POINTS)).tolist()
    sizes = [counts[0], sum(counts[1:first]), *counts[first:]]  # what moves, moves together
    parts, strengths = torch.split(pictures[place], sizes), torch.split(strength, sizes)
    sources = affine(torch.split(kinds, sizes)[1] - 1, strengths[1], *pictures.shape[2:])
    done = [parts[0], move(parts[1], sources.to(pictures.device), colour)]
    for operation, part, much in zip(POINTS.values(), parts[2:], strengths[2:], strict=True):
        done.append(operation(part, much.to(pictures.device)) if len(part) else part)
    return torch.cat(done)[place.argsort()]


def affine(kinds: Tensor, strength: Tensor, height: int, width: int) -> Tensor:
    """(k, 2, 3): what (x, y, 1) of a result is multiplied by to say where it comes from.

    Rotations by up to 30 degrees are about the middle; rows and columns are sheared by up to
    0.3 pixels a pixel from the upper left corner, and moved by up to 150 / 331 of the side.

    Args:
        kinds: (k,), places in ``GEOMETRY``.
        strength: (k,), -1 .. 1.
        height: of the pictures; ``width`` is their other side.
    """
    rotate, shear_x, shear_y, translate_x, translate_y = (
        (kinds == k).float() * strength for k in range(len(GEOMETRY))
    )
    angle = torch.deg2rad(30.0 * rotate)
    cos, sin, x, y = angle.cos(), angle.sin(), width / 2, height / 2
    across = torch.stack([cos, 0.3 * shear_x - sin, x - cos * x + sin * y], 1)
    down = torch.stack([0.3 * shear_y + sin, cos, y - cos * y - sin * x], 1)
    across[:, 2] += 150 / 331 * width * translate_x
    down[:, 2] += 150 / 331 * height * translate_y
    return torch.stack([across, down], 1)


def move(pictures: Tensor, sources: Tensor, colour: Tensor) -> Tensor:
    """Take every pixel from the nearest pixel of where ``sources`` say that it comes from.

    Args:
        pictures: (k, channels, height, width).
        sources: (k, 2, 3), as :func:`affine` makes them; a pixel has its place at its middle.
        colour: (channels,), of what comes from outside.
    """
    k, channels, height, width = pictures.shape
    rows = torch.arange(height, device=pictures.device)[:, None] + 0.5
    columns = torch.arange(width, device=pictures.device) + 0.5
    a, b, c, d, e, f = (v[:, None, None] for v in sources.reshape(k, 6).unbind(1))
    x = (a * columns + b * rows + c).floor().long()
    y = (d * columns + e * rows + f).floor().long()
    inside = ((x >= 0) & (x < width) & (y >= 0) & (y < height))[:, None]
    index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).reshape(k, 1, height * width)
    found = pictures.flatten(2).gather(2, index.expand(-1, channels, -1))
    return torch.where(inside, found.reshape(pictures.shape), colour.reshape(-1, 1, 1))


def autocontrast(pictures: Tensor, _: Tensor) -> Tensor:
    """Stretch every channel to 0..255."""
    low, high = (v.double()[..., None] for v in pictures.flatten(2).aminmax(dim=2))
    scale = 255.0 / (high - low).clamp(min=1.0)
    values = torch.arange(256, dtype=torch.float64, device=pictures.device)
    table = torch.where(high > low, values * scale - low * scale, values)
    return _looked_up(pictures, table.clamp(0, 255))


def equalize(pictures: Tensor, _: Tensor) -> Tensor:
    """Make the values of every channel as even as their order allows."""
    k, channels = pictures.shape[:2]
    which = torch.arange(k * channels, device=pictures.device).reshape(k, channels, 1, 1)
    bins = (pictures + 256 * which).flatten()
    counts = torch.bincount(bins, minlength=256 * k * channels).reshape(k, channels, 256)
    highest = pictures.flatten(2).amax(2, keepdim=True).long()
    total = pictures.shape[2] * pictures.shape[3]
    step = (total - counts.gather(2, highest)) // 255
    below = counts.cumsum(2) - counts
    table = (below + step // 2) // step.clamp(min=1)
    same = torch.arange(256, device=pictures.device)
    return _looked_up(pictures, torch.where(step > 0, table, same).clamp(0, 255))


def posterize(pictures: Tensor, strength: Tensor) -> Tensor:
    """Keep the upper 8 to 4 bits of every byte."""
    lost = (4.0 * strength.abs()).round().long()
    return pictures & (256 - 2**lost).to(torch.uint8).reshape(-1, 1, 1, 1)


def solarize(pictures: Tensor, strength: Tensor) -> Tensor:
    """Invert what is brighter than a threshold, from none (256) to all (0)."""
    threshold = 256.0 * (1.0 - strength.abs()).reshape(-1, 1, 1, 1)
    return torch.where(pictures < threshold, pictures, 255 - pictures)


def brightness(pictures: Tensor, strength: Tensor) -> Tensor:
    """Away from black, or towards it."""
    return _away(pictures, torch.zeros_like(pictures), strength)


def color(pictures: Tensor, strength: Tensor) -> Tensor:
    """Away from grey, or towards it; grey pictures stay as they are."""
    return _away(pictures, _grey(pictures), strength)


def contrast(pictures: Tensor, strength: Tensor) -> Tensor:
    """Away from the mean brightness of the picture, or towards it."""
    mean = _grey(pictures).float().mean((1, 2, 3), keepdim=True)
    return _away(pictures, (mean + 0.5).floor(), strength)


def sharpness(pictures: Tensor, strength: Tensor) -> Tensor:
    """Away from the picture smoothed by 3 x 3 pixels, or towards it; its border stays."""
    if min(pictures.shape[2:]) < 3:
        return pictures
    values = pictures.float()
    rows = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4.0 * values[:, :, 1:-1, 1:-1]
    smooth = pictures.clone()
    smooth[:, :, 1:-1, 1:-1] = (around / 13.0 + 0.5).floor().to(torch.uint8)
    return _away(pictures, smooth, strength)


def _away(pictures: Tensor, other: Tensor, strength: Tensor) -> Tensor:
    """Move pictures away from ``other`` by the share 0.9 * strength of what they differ."""
    factor = (1.0 + 0.9 * strength).reshape(-1, 1, 1, 1)
    other = other.float()
    return (other + factor * (pictures.float() - other)).clamp(0, 255).to(torch.uint8)


def _grey(pictures: Tensor) -> Tensor:
    """(k, 1, height, width) int32: brightness as ITU-R 601 says, or the mean of other channels."""
    if pictures.shape[1] != 3:
        return pictures.float().mean(1, keepdim=True).round().int()
    red, green, blue = torch.split(pictures.int(), 1, 1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _looked_up(pictures: Tensor, table: Tensor) -> Tensor:
    """Every byte replaced by what the table (k, channels, 256) of its channel has for it."""
    flat = pictures.flatten(2).long()
    return table.to(torch.uint8).gather(2, flat).reshape(pictures.shape)


POINTS: dict[str, Operation] = {
    "autocontrast": autocontrast,
    "equalize": equalize,
    "solarize": solarize,
    "color": color,
    "posterize": posterize,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
}
"""What changes the values of pixels where they are."""

"""Pictures with holes, and inputs that are mixtures of two: cutout, mixup and cutmix.

All work on prepared batches, where 0 is the mean colour.  One share and one partner are drawn
for a whole batch, as in the papers: an input is mixed with the one ``turn`` places before it,
which is as good as any other, because the order of an epoch is random.
"""

import math
import random

import torch
from torch import Tensor
from torch.nn import functional

from thrifty.errors import UserError


def cutout(inputs: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Set a square of every picture to 0, the mean colour of a prepared picture.

    The centres are drawn over the whole picture, so a square may lie partly outside.

    Args:
        inputs: (n, channels, height, width), prepared; not changed.
        side: of the square, in pixels.
        generator: the only source of randomness; its device need not be that of ``inputs``.

    Raises:
        UserError: the inputs are no pictures.

    References:
        DeVries and Taylor, Improved Regularization of CNNs with Cutout, 2017,
        https://arxiv.org/abs/1708.04552
    """
    _must_be_pictures(inputs, "cutout")
    holes = [
        _from_to(size, side, len(inputs), generator).to(inputs.device) for size in inputs.shape[2:]
    ]
    return inputs.masked_fill((holes[0][:, :, None] & holes[1][:, None, :])[:, None], 0.0)


def _from_to(size: int, side: int, n: int, generator: torch.Generator) -> Tensor:
    """(n, size) bool: ``side`` places in a row around a random one, as far as they are inside."""
    middle = torch.randint(size, (n, 1), generator=generator, device=generator.device)
    distance = torch.arange(size, device=generator.device) - middle + side // 2
    return (distance >= 0) & (distance < side)


def mixup(inputs: Tensor, share: float, turn: int) -> Tensor:
    """share * inputs + (1 - share) * the inputs ``turn`` places before them, of any shape.

    References:
        Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018,
        https://arxiv.org/abs/1710.09412
    """
    return torch.lerp(inputs.roll(turn, 0), inputs, share)


def cutmix(inputs: Tensor, share: float, turn: int, lots: random.Random) -> tuple[Tensor, float]:
    """Put a rectangle of the pictures ``turn`` places before into all pictures, one place for all.

    Args:
        inputs: (n, channels, height, width); not changed.
        share: of its area that a picture keeps, if the rectangle lies inside.
        lots: where the centre of the rectangle comes from; what is outside is left out.

    Returns:
        The pictures, and the share of its area that each really kept.

    Raises:
        UserError: the inputs are no pictures.

    References:
        Yun et al., CutMix, 2019, https://arxiv.org/abs/1905.04899
    """
    _must_be_pictures(inputs, "cutmix")
    height, width = inputs.shape[2:]
    scale = math.sqrt(1.0 - share)
    rows, columns = (_part(size, round(size * scale), lots) for size in (height, width))
    mixed = inputs.clone()
    mixed[:, :, rows, columns] = inputs[:, :, rows, columns].roll(turn, 0)
    gone = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, 1.0 - gone / (height * width)


def _part(size: int, length: int, lots: random.Random) -> slice:
    start = lots.randrange(size) - length // 2
    return slice(max(start, 0), min(start + length, size))


def mix(
    inputs: Tensor,
    labels: Tensor,
    classes: int,
    lots: random.Random,
    *,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch mixed by mixup or by cutmix, the share drawn from Beta(alpha, alpha).

    Args:
        inputs: (n, ...), prepared.
        labels: (n,) int64, -1 where there is none.
        classes: number of classes.
        lots: the only source of randomness.
        mixup_alpha: 0 never uses mixup.
        cutmix_alpha: 0 never uses cutmix; with both, one of the two is drawn for the batch.

    Returns:
        Mixed inputs; labels of the larger share, -1 where one of the two is missing; and
        (n, classes) float32, the shares of the classes.
    """
    cut = cutmix_alpha > 0 and (mixup_alpha == 0 or lots.random() < 0.5)
    alpha = cutmix_alpha if cut else mixup_alpha
    share = lots.betavariate(alpha, alpha)
    turn = lots.randrange(1, max(2, len(inputs)))
    if cut:
        inputs, share = cutmix(inputs, share, turn, lots)
    else:
        inputs = mixup(inputs, share, turn)
    return inputs, *_shared(labels, classes, share, turn)


def _shared(labels: Tensor, classes: int, share: float, turn: int) -> tuple[Tensor, Tensor]:
    others = labels.roll(turn, 0)
    own, other = (functional.one_hot(k.clamp(min=0), classes).float() for k in (labels, others))
    larger = labels if share >= 0.5 else others
    there = (labels >= 0) & (others >= 0)
    return torch.where(there, larger, -1), torch.lerp(other, own, share)


def _must_be_pictures(inputs: Tensor, what: str) -> None:
    if inputs.dim() != 4:
        raise UserError(
            f"{what} needs pictures (n, channels, height, width), and these inputs are "
            f"{tuple(inputs.shape)}; leave {what} out, or use mixup, which mixes any inputs"
        )

"""What a network is shown in an epoch: batches in a new order, prepared and augmented.

All randomness of an epoch is derived from the seed and the number of the epoch, for each
purpose its own, so a resumed training sees what the uninterrupted one saw, and switching one
augmentation on does not change what another one draws.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from thrifty.data import Data, Split, augment
from thrifty.data.mixing import cutout, mix
from thrifty.data.randaugment import randaugment
from thrifty.errors import UserError
from thrifty.training.plan import Plan


@dataclass(frozen=True)
class Batch:
    """What one step of training is shown."""

    inputs: Tensor
    """Prepared and augmented, (n, ...)."""
    labels: Tensor
    """(n,) int64; -1 where there is none; of mixed inputs, that of the larger share."""
    targets: Tensor | None
    """Shares of the classes, (n, classes), if inputs were mixed."""
    index: Tensor
    """(n,) int64, the places of the inputs in the training split."""


def batches(data: Data, split: Split, plan: Plan, seed: int, epoch: int) -> Iterator[Batch]:
    """The batches of one epoch; a last batch that is not full is left out.

    Args:
        data: how inputs are prepared and augmented.
        split: the training inputs, on the device of the network.
        seed: of the training; with ``epoch`` (counted from 0) it decides all that is random.
    """
    torch.manual_seed(derive(seed, "layers", epoch))
    device = split.inputs.device
    order = torch.Generator().manual_seed(derive(seed, "order", epoch))
    chances = Chances.of(seed, epoch, device)
    index = torch.randperm(len(split), generator=order).to(device)
    picture = plan.channels_last and split.inputs.dim() == 4
    for piece in torch.split(index, plan.batch)[: steps_an_epoch(split, plan)]:
        inputs = presented(data, split.inputs[piece], plan, chances)
        labels, targets = split.labels[piece], None
        if plan.mixup or plan.cutmix:
            inputs, labels, targets = mix(
                inputs,
                labels,
                data.classes,
                chances.mixing,
                mixup_alpha=plan.mixup,
                cutmix_alpha=plan.cutmix,
            )
        if picture:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        yield Batch(inputs, labels, targets, piece)


@dataclass(frozen=True)
class Chances:
    """Sources of randomness of one epoch, each for one purpose."""

    moves: torch.Generator
    operations: torch.Generator
    holes: torch.Generator
    mixing: random.Random

    @classmethod
    def of(cls, seed: int, epoch: int, device: torch.device) -> "Chances":
        """Those of an epoch, counted from 0; moves are drawn on ``device``."""
        return cls(
            torch.Generator(device).manual_seed(derive(seed, "augment", epoch)),
            torch.Generator().manual_seed(derive(seed, "randaugment", epoch)),
            torch.Generator().manual_seed(derive(seed, "cutout", epoch)),
            random.Random(derive(seed, "mixing", epoch)),
        )


def presented(data: Data, inputs: Tensor, plan: Plan, chances: Chances) -> Tensor:
    """Rows of ``data`` as ``plan`` shows them: augmented, prepared, with holes; not yet mixed."""
    if plan.augment and (data.shift or data.flip):
        inputs = augment(inputs, data.shift, data.flip, chances.moves)
    if plan.randaugment:
        fill = [255.0 * mean for mean in data.mean]
        inputs = randaugment(inputs, plan.randaugment, plan.magnitude, chances.operations, fill)
    inputs = data.prepare(inputs)
    return cutout(inputs, plan.cutout, chances.holes) if plan.cutout else inputs


def check(data: Data, plan: Plan) -> None:
    """Nothing, if the plan can augment inputs such as those of ``data``.

    Raises:
        UserError: it asks for something that is for pictures, and these are none.
    """
    asked = [f"{k}={v:g}" for k in ("randaugment", "cutout", "cutmix") if (v := getattr(plan, k))]
    if asked and len(data.shape) != 3:
        raise UserError(
            f"{' and '.join(asked)} need pictures (channels, height, width), and an input of "
            f"{data.name} is {data.shape}; leave them out, or use mixup, which mixes any inputs"
        )
    if plan.cutout and plan.cutout >= min(data.shape[1:]):
        raise UserError(
            f"cutout={plan.cutout} is the side of a square in pixels, and pictures of {data.name} "
            f"are {data.shape[2]} x {data.shape[1]}; give at most {min(data.shape[1:]) - 1}, "
            f"such as {min(data.shape[1:]) // 2}"
        )
    if plan.randaugment and data.train.inputs.dtype != torch.uint8:
        kind = str(data.train.inputs.dtype).removeprefix("torch.")
        raise UserError(
            f"randaugment={plan.randaugment} needs pictures of bytes (uint8), and those of "
            f"{data.name} are {kind}; leave it out, or give the pictures as bytes"
        )


def steps_an_epoch(split: Split, plan: Plan) -> int:
    """Full batches in ``split``; one smaller batch if there is not even one."""
    return max(1, len(split) // plan.batch)


def derive(seed: int, *words: object) -> int:
    """A seed for one purpose, decided by ``seed`` and the words that name the purpose."""
    text = ":".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1

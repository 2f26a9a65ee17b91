"""How a network is trained, as plain values: what a recipe says under ``train``."""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from thrifty.training.distillation import Taught

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


def known_gate(spec: str) -> str:
    """``spec``, whose name is that of a gate.

    Raises:
        UnknownName: there is none; the message offers the closest names.
    """
    from thrifty.pruning.gates import GATES
    from thrifty.registry import parse_spec

    GATES.get(parse_spec(spec).name)
    return spec


def known_average(spec: str) -> str:
    """``spec``, which says how weights are averaged.

    Raises:
        UserError: no average has that name or option, or its value makes no sense.
    """
    from thrifty.training.averaging import rule_of

    rule_of(spec)
    return spec


class Plan(BaseModel):
    """Epochs, batches, optimizer and learning rate of one training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: Annotated[int, Field(ge=0)] = 20
    """Passes over the training data; 0 leaves the network as it is."""
    batch: Annotated[int, Field(ge=1)] = 64
    """Inputs a step."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Positive = 0.05
    """The highest learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of sgd; beta1 of adam and adamw."""
    nesterov: bool = True
    """Nesterov momentum, for sgd."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """Of weights; biases, normalisation and gates are not decayed."""
    schedule: Literal["cosine", "step", "one_cycle", "linear", "constant"] = "cosine"
    """How the learning rate changes; ``step`` divides it by 10 at 1/2 and 3/4 of the epochs."""
    warmup: Share = 0.05
    """Share of the steps over which the learning rate rises from 0 (not for one_cycle)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip: Positive | None = None
    """Largest norm of the gradient; off by default."""
    augment: bool = True
    """Shift and mirror the pictures as the data set says."""
    randaugment: Annotated[int, Field(ge=0, le=20)] = 0
    """Operations that each picture goes through (rotate, shear, solarize, color, ...), drawn by
    lot; 2 is usual.  For pictures of bytes."""
    magnitude: Annotated[float, Field(ge=0, le=30)] = 9.0
    """How strong the operations of ``randaugment`` are, 0..30."""
    cutout: Annotated[int, Field(ge=0)] = 0
    """Side in pixels of a square that is blanked in each picture; 16 is usual for 32x32."""
    mixup: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Mix inputs, and their labels, two by two: in shares drawn from Beta(mixup, mixup) for each
    batch.  0.2 is usual.  For inputs of any shape."""
    cutmix: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Put a rectangle of one picture into another, and mix their labels, in shares drawn from
    Beta(cutmix, cutmix) for each batch.  1 is usual; with mixup too, a batch gets one of them."""
    precision: Literal["f32", "bf16"] = "f32"
    """bf16 computes the network in bfloat16 where that is safe (autocast)."""
    channels_last: bool = True
    """Keep pictures and convolutions with channels last in memory; faster on most CPUs."""
    compile: bool = False
    """Compile the network for training (torch.compile), which takes a minute or more before the
    first step; as it is where nothing can compile it.  Results differ by rounding."""
    checkpointing: bool = False
    """Compute activations again instead of keeping them, in networks that can (thriftynet): less
    memory for a third more time."""
    average: Annotated[str, AfterValidator(known_average)] | None = None
    """Which average of the weights is the result: ``ema?decay=.999``, which follows them step by
    step, or ``swa?start=.75``, the mean of those at the ends of the last quarter of the epochs.
    Pruned weights stay zero; batch normalisation statistics are always measured anew."""
    recalibrate: bool = True
    """Measure batch normalisation statistics anew, on training inputs, when training ends."""
    gate: Annotated[str, AfterValidator(known_gate)] | None = None
    """Gate whose penalty a recipe trains the dense parent under: ``highway?strength=.01``.  It is
    not part of retraining; :func:`thrifty.train` is given a gate itself."""
    distill: Taught | None = None
    """Whom a recipe trains the dense parent by, besides the labels: ``{teacher: runs/large}``.  It
    is not part of retraining; :func:`thrifty.train` is given a teacher itself."""


def lr_share(schedule: str, progress: float, warmup: float = 0.0) -> float:
    """Learning rate as a share of its highest, when the share ``progress`` of steps is over.

    Args:
        schedule: a name of ``Plan.schedule``.
        progress: 0 before the first step, towards 1 at the last.
        warmup: share of the steps over which it rises linearly from 0; the rest of the
            schedule runs over what is left.

    References:
        Smith, Super-Convergence, 2017, https://arxiv.org/abs/1708.07120 (one_cycle: up for
        0.3 of the steps from 1/25, then down to 0, both along a cosine)
    """
    if schedule == "one_cycle":
        rise = 0.3
        if progress < rise:
            return 1.0 + (1 / 25 - 1.0) * _half_cosine(progress / rise)
        return _half_cosine((progress - rise) / (1 - rise))
    if progress < warmup:
        return progress / warmup
    progress = (progress - warmup) / (1.0 - warmup) if warmup < 1 else 1.0
    if schedule == "cosine":
        return _half_cosine(progress)
    if schedule == "step":
        return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01
    if schedule == "linear":
        return 1.0 - progress
    return 1.0


def step_size(plan: Plan, lr: float) -> float:
    """How far a constant gradient of 1 moves a value in one step, after many: lr / (1 - momentum).

    A proximal step of that size has the minimum of loss + penalty as its fixed point, as a
    penalty in the gradient has; one of ``lr`` would pull a tenth as hard at momentum 0.9.
    Adam divides the gradient by its size, so there it is ``lr``.
    """
    return lr / (1.0 - plan.momentum) if plan.optimizer == "sgd" else lr


def _half_cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))

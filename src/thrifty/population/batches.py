"""Which inputs a model sees at a step, and how: the same whichever engine asks.

Order and augmentation are drawn from the seed of a model and the number of the epoch, so that a
model is the same whatever is trained beside it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thrifty.data import Data, augment
from thrifty.native.lanes import order
from thrifty.population.plan import Plan
from thrifty.training.loop import derive


def orders(seeds: Sequence[int], epoch: int, count: int, shared: bool) -> Tensor:
    """(models, inputs) numbers of the inputs in the order of an epoch.

    Args:
        seeds: of the models.
        count: of the inputs.
        shared: all models have the order of the first.
    """
    whose = [seeds[0]] * len(seeds) if shared else seeds
    return torch.from_numpy(np.stack([order(s, epoch, count) for s in whose])).long()


def turns(seed: int, epoch: int, plan: Plan) -> torch.Generator | None:
    """What a model's pictures are moved by in an epoch; ``None`` if they are not moved."""
    if not (plan.shift or plan.flip):
        return None
    return torch.Generator().manual_seed(derive(seed, "augment", epoch))


def presented(data: Data, rows: Tensor, plan: Plan, moved: torch.Generator | None) -> Tensor:
    """Inputs as one network takes them, moved if the plan says so.

    Args:
        rows: (n,) numbers of training inputs.
        moved: of :func:`turns`.
    """
    inputs = data.train.inputs[rows]
    if moved is not None:
        inputs = augment(inputs, plan.shift, plan.flip, moved)
    return data.prepare(inputs)


def immovable(data: Data, plan: Plan) -> str | None:
    """Why inputs cannot be moved as the plan says; ``None`` if they can."""
    if (plan.shift or plan.flip) and len(data.shape) != 3:
        return f"shift and flip move pictures, and an input of {data.name} is {data.shape}"
    return None

"""One step of an optimizer, on a tensor of one model or of many with a leading axis.

The update is written out, so that every model has its own learning rate and decay, and so that
a stack and a single model are moved by the same operations.
"""

import torch
from torch import Tensor

from thrifty.population.plan import Plan

BETA2, EPSILON = 0.999, 1e-8


def kinds(plan: Plan) -> tuple[str, ...]:
    """Names of the moments that the optimizer of a plan carries."""
    return ("first",) if plan.optimizer == "sgd" else ("first", "second")


@torch.no_grad()
def move(
    p: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, ...],
    plan: Plan,
    *,
    lr: Tensor,
    decay: Tensor,
    number: int,
) -> None:
    """In place: ``p`` and its moments after one step.

    Args:
        p: a parameter.
        gradient: of its shape; not changed.
        moments: those of :func:`kinds`, each of its shape.
        lr, decay: of a shape that broadcasts to it.
        number: of the step, counted from 1.
    """
    g, first, momentum = gradient, moments[0], plan.momentum
    if plan.optimizer == "sgd":
        g = g + decay * p
        if momentum:
            first.mul_(momentum).add_(g)
            g = g + momentum * first if plan.nesterov else first
        p.sub_(lr * g)
        return
    if plan.optimizer == "adam":
        g = g + decay * p
    else:
        p.mul_(1 - lr * decay)
    second = moments[1]
    first.mul_(momentum).add_(g, alpha=1 - momentum)
    second.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
    bias, root = 1 - momentum**number, (1 - BETA2**number) ** 0.5
    p.sub_(lr / bias * first / (second.sqrt() / root + EPSILON))

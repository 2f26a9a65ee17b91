"""What training minimises: the task, and staying close to a teacher."""

import torch
from torch import Tensor
from torch.nn import functional

UNLABELED = -1
"""The label of an input that has none."""


def task(
    outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0, targets: Tensor | None = None
) -> Tensor:
    """Mean cross entropy of logits against labels, in nats; inputs without a label do not count.

    Args:
        outputs: logits (n, classes).
        labels: (n,) int64; -1 where there is none.
        label_smoothing: share of a label that is spread over all classes.
        targets: shares of the classes (n, classes) to learn instead of ``labels``.

    Returns:
        A number, 0 if no input has a label; ``outputs`` always gets a gradient.
    """
    outputs = outputs.float()
    if bool((labels == UNLABELED).all()):
        return 0.0 * outputs.sum()
    if targets is None:
        return functional.cross_entropy(
            outputs, labels, ignore_index=UNLABELED, label_smoothing=label_smoothing
        )
    each = functional.cross_entropy(
        outputs, targets, reduction="none", label_smoothing=label_smoothing
    )
    return each[labels != UNLABELED].mean()


def distillation(outputs: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """T^2 * KL(teacher || outputs), both softened by the temperature T, mean over inputs.

    The factor T^2 keeps the size of the gradient when T changes.

    Args:
        outputs: logits (n, classes) of the network that learns.
        teacher: logits (n, classes) of the network it learns from; no gradient flows there.

    References:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015,
        https://arxiv.org/abs/1503.02531 (section 2)
    """
    soft = functional.log_softmax(outputs.float() / temperature, dim=1)
    aim = functional.log_softmax(teacher.detach().float() / temperature, dim=1)
    gap = functional.kl_div(soft, aim, reduction="batchmean", log_target=True)
    return temperature**2 * gap


def decoupled(
    outputs: Tensor,
    teacher: Tensor,
    classes: Tensor,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """T^2 * (alpha * TCKD + beta * NCKD), mean over inputs; see :func:`parts`.

    Args:
        outputs: logits (n, classes) of the network that learns.
        teacher: logits (n, classes) of the network it learns from; no gradient flows there.
        classes: (n,) int64, the class of every input.
        temperature: T, by which both are divided.
        alpha: weight of the class of an input against all others.
        beta: weight of how the others compare.

    References:
        Zhao et al., Decoupled Knowledge Distillation, 2022, https://arxiv.org/abs/2203.08679
        (equation 7)
    """
    target, others, _ = parts(outputs, teacher, classes, temperature)
    return temperature**2 * (alpha * target + beta * others).mean()


def parts(
    outputs: Tensor, teacher: Tensor, classes: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The two parts of distillation, TCKD and NCKD, and the weight 1 - p of the second, each (n,).

    TCKD is KL(teacher || outputs) of the class of an input against all others together, NCKD that
    among the others alone, and p what the teacher gives the class: their sum TCKD + (1 - p) * NCKD
    is the KL divergence over all classes.  A teacher that is sure leaves 1 - p near 0, so that
    the sum alone teaches nothing about the others.

    Args:
        outputs: logits (n, classes), two classes or more.
        teacher: logits (n, classes); no gradient flows there.
        classes: (n,) int64, the class of every input.
        temperature: by which both are divided.
    """
    ours, our_rest = _split(outputs, classes, temperature)
    theirs, their_rest = _split(teacher.detach(), classes, temperature)
    target = (theirs.exp() * (theirs - ours)).sum(1)
    gap = functional.kl_div(our_rest, their_rest, reduction="none", log_target=True)
    return target, gap.sum(1), theirs[:, 1].exp()


def _split(logits: Tensor, classes: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Logarithms: of a class and the rest (n, 2), and within the rest (n, classes - 1)."""
    whole = functional.log_softmax(logits.float() / temperature, dim=1)
    place = torch.arange(whole.shape[1] - 1, device=whole.device).expand(len(whole), -1)
    rest = whole.gather(1, place + (place >= classes[:, None]))
    together = rest.logsumexp(1, keepdim=True)
    return torch.cat([whole.gather(1, classes[:, None]), together], 1), rest - together

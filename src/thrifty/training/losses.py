"""What training minimises: the task, and staying close to a teacher."""

from torch import Tensor
from torch.nn import functional


def task(outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy of logits (n, classes) against labels (n,), in nats."""
    return functional.cross_entropy(outputs.float(), labels, label_smoothing=label_smoothing)


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

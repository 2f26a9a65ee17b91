"""What repairs a network after a cut: a learning rate fit for the damage, fresh BN statistics."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from thrifty.data import Data, augment
from thrifty.training.plan import Plan, lr_share


def allr(max_lr: float, cut_norm: float, norm: float, sparsity: float, shorter: float) -> float:
    """Highest learning rate for retraining: larger after a cut that hurt more.

    clip(max_lr * (cut_norm / norm) / sqrt(sparsity), max_lr * min(1, shorter), max_lr): the
    share of the weights' norm that was cut, against the share of a random cut of that size.

    Args:
        max_lr: highest learning rate of the dense training.
        cut_norm: L2 norm of the weights this cut removed.
        norm: L2 norm of all prunable weights before it.
        sparsity: share of the weights this cut removed.
        shorter: epochs of retraining / epochs of the dense training.

    References:
        Zimmer et al., How I Learned to Stop Worrying and Love Retraining, 2023,
        https://arxiv.org/abs/2111.00843 (equation 2)
    """
    lowest = max_lr * min(1.0, shorter)
    if sparsity <= 0 or norm <= 0:
        return lowest
    return min(max(max_lr * cut_norm / norm / math.sqrt(sparsity), lowest), max_lr)


def damage(
    weights: Mapping[str, Tensor], before: Mapping[str, Tensor] | None, after: Mapping[str, Tensor]
) -> tuple[float, float, float]:
    """(L2 norm of what a cut removes, L2 norm of what was there, share of weights removed).

    Args:
        weights: parameter name to weight, before the cut.
        before: masks before the cut, ``None`` for a dense network.
        after: masks after it.
    """
    cut = whole = 0.0
    gone = there = 0
    for name, mask in after.items():
        weight = weights[name].detach().double()
        mask = mask.to(weight.device)
        live = before[name].to(weight.device) if before is not None else torch.ones_like(mask)
        lost = live & ~mask
        whole += float((weight * live).square().sum())
        cut += float((weight * lost).square().sum())
        gone += int(lost.sum())
        there += int(live.sum())
    return math.sqrt(cut), math.sqrt(whole), gone / max(1, there)


def last_lr(plan: Plan) -> float:
    """The learning rate at which the last epoch of ``plan`` began: for plain fine-tuning."""
    epochs = max(1, plan.epochs)
    share = lr_share(plan.schedule, (epochs - 1) / epochs, plan.warmup) if epochs > 1 else 0.1
    return plan.lr * max(share, 1e-3)


def course(
    policy: str,
    plan: Plan,
    epochs: int,
    lr: float | None = None,
    hurt: tuple[float, float, float] = (0.0, 0.0, 0.0),
    pretrained: bool = False,
) -> Callable[[float], float]:
    """Learning rate of a retraining, by its progress 0..1.

    Args:
        policy: ``allr`` falls linearly to 0 from a height fit for the damage, after a tenth of
            warm-up; ``rewind`` replays the end of the dense training; ``finetune`` stays at
            the rate of the dense training's last epoch.
        plan: the dense training.
        epochs: of the retraining.
        lr: highest learning rate, instead of the policy's.
        hurt: what :func:`damage` says of the cut.
        pretrained: the dense network was trained elsewhere, for an unknown number of epochs;
            ``allr`` then takes a retraining as a tenth of it.

    References:
        Renda et al., Comparing Rewinding and Fine-tuning, 2020,
        https://arxiv.org/abs/2003.02389 (rewind); Zimmer et al., 2023 (allr)
    """
    if policy == "finetune":
        constant = lr or last_lr(plan)
        return lambda progress: constant
    if policy == "rewind":
        highest = lr or plan.lr
        begin = 1.0 - epochs / max(plan.epochs, epochs, 1)
        return lambda progress: (
            highest * lr_share(plan.schedule, begin + (1.0 - begin) * progress, plan.warmup)
        )
    shorter = 0.1 if pretrained or not plan.epochs else epochs / plan.epochs
    highest = lr or allr(plan.lr, *hurt, shorter)
    return lambda progress: highest * lr_share("linear", progress, 0.1)


def with_statistics(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch normalisations of ``model`` that keep running statistics."""
    return [
        m
        for m in model.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
    ]


def were_measured(norms: Sequence[nn.modules.batchnorm._BatchNorm]) -> bool:
    """Whether any running statistics differ from those of a new network, mean 0 and variance 1.

    Weights into which the statistics were folded come with such: what they were measured on is
    divided out already, and new statistics would divide once more.
    """
    return any(
        bool((norm.running_mean != 0).any()) or bool((norm.running_var != 1).any())
        for norm in norms
        if norm.running_mean is not None and norm.running_var is not None
    )


@torch.no_grad()
def recalibrate(
    model: nn.Module,
    data: Data,
    *,
    augmented: bool = True,
    inputs: int = 5120,
    batch: int = 256,
    seed: int = 0,
) -> bool:
    """In place: set the running statistics of batch normalisation to those of training inputs.

    Plain averages over training inputs drawn by the seed; nothing else of the model changes,
    and the same data and seed give the same statistics.

    Args:
        augmented: shift and mirror the inputs as training does.  A network trained on shifted
            pictures expects their statistics: on CIFAR-10, ResNet-20 loses 3 points with those
            of the pictures as they are.

    Returns:
        Whether the model has any batch normalisation that keeps statistics.
    """
    norms = with_statistics(model)
    if not norms:
        return False
    training = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.train), generator=generator)[:inputs]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        for piece in torch.split(order, batch):
            pictures = data.train.inputs[piece]
            if augmented and (data.shift or data.flip):
                pictures = augment(pictures, data.shift, data.flip, generator)
            model(data.prepare(pictures.to(device)))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in training.items():
            module.training = mode
    return True

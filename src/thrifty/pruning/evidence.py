"""Collect the evidence that a criterion declares it needs, and no other."""

import hashlib
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.pruning.layers import EVIDENCE, Layer, prunable

Batch = tuple[Tensor, Tensor]


def gather(
    model: nn.Module,
    needs: Collection[str],
    batches: Iterable[Batch] | None = None,
    seed: int = 0,
    only: Mapping[str, nn.Parameter] | None = None,
) -> dict[str, Layer]:
    """The prunable layers of ``model`` with the evidence named in ``needs``.

    The model is left as it was: mode, gradients and running statistics are put back.

    Args:
        needs: names out of ``Layer``: ``grad`` and ``grad_square`` (need ``batches``), ``noise``.
        batches: pairs of inputs (n, ...) and labels (n,), as the model takes them.
        seed: decides ``noise``, with the layer's name.
        only: the tensors to gather for; all prunable ones by default.

    Raises:
        UserError: a need that is not known, or data that is needed and missing.
    """
    unknown = sorted(set(needs) - set(EVIDENCE))
    if unknown:
        raise UserError(
            f"a criterion needs {', '.join(unknown)}; evidence is {', '.join(EVIDENCE)}"
        )
    tensors = dict(only) if only is not None else dict(prunable(model))
    layers = {name: Layer(p.detach()) for name, p in tensors.items()}
    if "noise" in needs:
        layers = {n: v._replace(noise=lots(n, v.weight, seed)) for n, v in layers.items()}
    if {"grad", "grad_square"} & set(needs):
        if batches is None:
            raise UserError(
                "this criterion needs gradients, so it needs data; give data= (or use magnitude)"
            )
        mean, square = gradients(model, tensors, batches)
        found = {"grad": mean, "grad_square": square}
        layers = {
            name: layer._replace(**{k: v[name] for k, v in found.items() if k in needs})
            for name, layer in layers.items()
        }
    return layers


def gradients(
    model: nn.Module, tensors: Mapping[str, nn.Parameter], batches: Iterable[Batch]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradient of the mean cross entropy over all inputs, and the mean square of the batches'.

    The model is run in eval mode.  A batch counts in the mean by its inputs and in the mean
    square as one.
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    total = {name: torch.zeros_like(p) for name, p in tensors.items()}
    square = {name: torch.zeros_like(p) for name, p in tensors.items()}
    count = number = 0
    try:
        for inputs, labels in batches:
            if bool((labels < 0).any()):
                raise UserError(
                    "this criterion needs gradients, so it needs labels, and inputs without one "
                    "were given; use magnitude, or data with some labels"
                )
            loss = nn.functional.cross_entropy(model(inputs), labels, reduction="sum")
            parts = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True)
            for name, part in zip(tensors, parts, strict=True):
                if part is not None:
                    total[name] += part
                    square[name] += (part / len(labels)).square()
            count += len(labels)
            number += 1
    finally:
        for module, mode in training.items():
            module.training = mode
    if not count:
        raise UserError("the data for the gradients has no batch; give at least one input")
    return (
        {name: gradient / count for name, gradient in total.items()},
        {name: value / number for name, value in square.items()},
    )


def lots(name: str, weight: Tensor, seed: int) -> Tensor:
    """Uniform numbers in [0, 1), the shape of ``weight``, decided by the seed and the name."""
    word = hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8]
    generator = torch.Generator().manual_seed(int.from_bytes(word, "little") >> 1)
    return torch.rand(weight.shape, generator=generator).to(weight.device)

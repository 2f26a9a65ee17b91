"""Prune every model of a stack: scores with a leading axis, then each model's own exact counts.

Criteria are functions of one layer, which ``torch.vmap`` maps over the models as they are.
Allocations look for exact ranks, in whatever layers those lie, so they are asked model by model.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from thrifty.data import Data
from thrifty.errors import UserError
from thrifty.population.stack import Stack
from thrifty.population.stacked_engine import unstackable
from thrifty.pruning.allocation import Budget
from thrifty.pruning.criteria import CRITERIA
from thrifty.pruning.evidence import gather, lots
from thrifty.pruning.layers import Layer, prunable
from thrifty.pruning.pruning import Cut, batches, cut

MOST_TOGETHER = 200_000
"""Parameters of a model up to which the gradients of all models are computed in one call."""


def scores_of(
    stack: Stack, criterion: str, *, data: Data | None = None, seeds: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """Score of every weight of every model, as the criterion gives for that model by itself.

    Args:
        criterion: a name of ``thrifty criteria``.
        data: whose training inputs a criterion sees that needs gradients.
        seeds: of the models, for criteria that draw lots; 0 for all by default.

    Returns:
        Parameter name -> (k, *shape), of every prunable layer.

    Raises:
        UserError: the criterion needs data and there is none, or a score is NaN.
    """
    rule = CRITERIA.get(criterion)
    found = {}
    for name, layer in layers_of(stack, rule.needs, data, seeds or [0] * len(stack)).items():
        given = {field: x for field, x in layer._asdict().items() if x is not None}
        found[name] = vmap(_of(rule, tuple(given)))(*given.values())
        wrong = torch.isnan(found[name]).reshape(len(stack), -1).any(1).nonzero().reshape(-1)
        if len(wrong):
            raise UserError(
                f"{name} of model {int(wrong[0])} cannot be scored: {criterion} gave NaN; leave "
                f"out models that diverged"
            )
    return found


def layers_of(
    stack: Stack, needs: Collection[str], data: Data | None, seeds: Sequence[int]
) -> dict[str, Layer]:
    """The prunable layers of all models with the evidence in ``needs``, a leading axis on each."""
    names = list(prunable(stack.template()))
    if {"grad", "grad_square"} & set(needs):
        if data is None:
            raise UserError(
                "this criterion needs gradients, so it needs data; give data= (or use magnitude)"
            )
        together = stack.parameters <= MOST_TOGETHER and unstackable(stack) is None
        if not together:
            return _apart(stack, needs, data, seeds)
    layers = {name: Layer(_masked(stack, name)) for name in names}
    if "noise" in needs:
        for name, layer in layers.items():
            drawn = [lots(name, layer.weight[0], seed) for seed in seeds]
            layers[name] = layer._replace(noise=torch.stack(drawn))
    if {"grad", "grad_square"} & set(needs):
        assert data is not None
        mean, square = gradients(stack, names, data)
        found = {"grad": mean, "grad_square": square}
        for name, layer in layers.items():
            more = {field: of[name] for field, of in found.items() if field in needs}
            layers[name] = layer._replace(**more)
    return layers


def gradients(
    stack: Stack, names: Sequence[str], data: Data
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of every model what :func:`thrifty.pruning.evidence.gradients` gives, (k, *shape) each."""
    model = stack.template().eval()
    whole = {n: _masked(stack, n) for n in stack.tensors}
    moved = {n: whole[n] for n in names}
    rest = {n: x for n, x in whole.items() if n not in moved}

    def loss(own: dict[str, Tensor], fixed: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs = functional_call(model, {**own, **fixed}, (x,))
        return nn.functional.cross_entropy(outputs, y, reduction="sum")

    each = vmap(grad(loss), in_dims=(0, 0, None, None))
    total = {n: torch.zeros_like(x) for n, x in moved.items()}
    square = {n: torch.zeros_like(x) for n, x in moved.items()}
    count = number = 0
    for inputs, labels in batches(data, model) or ():
        part = each(moved, rest, inputs, labels)
        for name, g in part.items():
            total[name] += g
            square[name] += (g / len(labels)).square()
        count, number = count + len(labels), number + 1
    if not count:
        raise UserError("the data for the gradients has no batch; give at least one input")
    return (
        {n: x / count for n, x in total.items()},
        {n: x / number for n, x in square.items()},
    )


def cut_stack(
    stack: Stack,
    how: Cut,
    budget: Budget,
    *,
    data: Data | None = None,
    seeds: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Masks that cut each model exactly as :func:`thrifty.pruning.pruning.cut` cuts it alone.

    What the masks of the stack prune already stays pruned.

    Returns:
        Parameter name -> bool (k, *shape), True where a weight is kept.

    Raises:
        UserError: the budget cannot be met, or a model cannot be scored.
    """
    scores = scores_of(stack, how.criterion, data=data, seeds=seeds)
    found = []
    for index, model in enumerate(stack.modules()):
        own = {name: mask[index] for name, mask in stack.masks.items() if name in scores}
        given = {name: x[index] for name, x in scores.items()}
        found.append(cut(model, how, budget, within=own or None, given=given))
    return {name: torch.stack([masks[name] for masks in found]) for name in found[0]}


def _of(rule: Callable[[Layer], Tensor], fields: tuple[str, ...]) -> Callable[..., Tensor]:
    return lambda *values: rule(Layer(**dict(zip(fields, values, strict=True))))


def _masked(stack: Stack, name: str) -> Tensor:
    x, mask = stack.tensors[name], stack.masks.get(name)
    return x if mask is None else x.masked_fill(~mask, 0)


def _apart(
    stack: Stack, needs: Collection[str], data: Data, seeds: Sequence[int]
) -> dict[str, Layer]:
    """The same, model by model: for networks whose gradients fill the memory."""
    every: list[Mapping[str, Layer]] = []
    for model, seed in zip(stack.modules(), seeds, strict=True):
        every.append(gather(model, needs, batches(data, model), seed))
    return {name: _together([layers[name] for layers in every]) for name in every[0]}


def _together(layers: Sequence[Layer]) -> Layer:
    fields = [field for field, x in layers[0]._asdict().items() if x is not None]
    return Layer(**{f: torch.stack([getattr(layer, f) for layer in layers]) for f in fields})

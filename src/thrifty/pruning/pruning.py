"""Prune a model: gather evidence, score, share the budget among layers, cut exactly."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.pruning import masks as _masks
from thrifty.pruning.allocation import Budget, Counts, allocate, matching
from thrifty.pruning.criteria import CRITERIA
from thrifty.pruning.evidence import Batch, gather
from thrifty.pruning.granularity import granularity as find_granularity
from thrifty.pruning.layers import Layer, prunable
from thrifty.pruning.masks import Masks
from thrifty.pruning.methods import METHODS, Method
from thrifty.pruning.select import top

if TYPE_CHECKING:
    from thrifty.data import Data


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Everything that decides a cut but the model and the budget: names and patterns."""

    criterion: str = "magnitude"
    granularity: str = "weight"
    allocation: str = "lamp"
    keep: tuple[str, ...] = ()
    """Patterns of layers that are not pruned."""
    layers: Mapping[str, float] | None = None
    """For the allocation ``explicit``: patterns of layers to sparsities."""

    @classmethod
    def of(cls, method: str | Method, **overrides: Any) -> "Cut":
        """The cut of a method, with the fields that are given and not ``None`` replaced."""
        found = METHODS.get(method) if isinstance(method, str) else method
        if found.removes == "channels":
            raise UserError(
                f"{method} removes channels, which gives another network; use "
                f"small = thrifty.prune_channels(model, {method!r}, budget, example)"
            )
        base = cls(
            criterion=found.criterion, granularity=found.granularity, allocation=found.allocation
        )
        return replace(base, **{k: v for k, v in overrides.items() if v is not None})


def score(
    layers: Mapping[str, Layer], criterion: str, granularity: str = "weight"
) -> dict[str, Tensor]:
    """Score of every unit of every layer; higher is more worth keeping.

    Raises:
        UserError: a score is NaN; the message names the layer.
    """
    rule, units = CRITERIA.get(criterion), find_granularity(granularity)
    scores = {name: units.pool(rule(layer)) for name, layer in layers.items()}
    for name, values in scores.items():
        if bool(torch.isnan(values).any()):
            count = int(torch.isnan(layers[name].weight).sum())
            why = f"{count} of its weights are NaN" if count else f"{criterion} gave NaN"
            raise UserError(f"{name} cannot be scored: {why}; mend the network before pruning it")
    return scores


def cut(
    model: nn.Module,
    how: Cut | str = "magnitude",
    budget: Budget | float = Budget(0.9),  # noqa: B008  (frozen)
    *,
    data: "Iterable[Batch] | Data | None" = None,
    within: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    given: Mapping[str, Tensor] | None = None,
) -> Masks:
    """The masks that prune ``model`` to ``budget``; the model is not changed.

    Args:
        how: a :class:`Cut`, or the name of a method.
        budget: what to keep; a plain number is a sparsity.
        data: batches of (inputs, labels) or a data set, for criteria that need evidence.
        within: masks of an earlier cut; what they pruned stays pruned and is never scored.
        seed: for criteria that draw lots.
        given: scores by the name of a weight, of its shape, as trained gates give, instead of a
            criterion; layers without any stay whole.

    Returns:
        Masks with exactly the number of units the budget asks for, counted over every prunable
        layer that ``keep`` does not exempt; the exempt layers have no mask.

    Raises:
        UserError: the budget cannot be met, a score is NaN, or the method needs trained gates.
    """
    if isinstance(how, str) and given is None:
        learning(how)
    how = Cut.of(how) if isinstance(how, str) else how
    budget = budget if isinstance(budget, Budget) else Budget(budget)
    tensors = prunable(model)
    exempt = set(matching(how.keep, tensors))
    tensors = {name: p for name, p in tensors.items() if name not in exempt}
    if not tensors:
        raise UserError(f"keep={list(how.keep)} exempts every layer; nothing is left to prune")
    if given is not None:
        tensors = {name: p for name, p in tensors.items() if name in given}
        layers = gather(model, (), only=tensors)
        scores = _learned(given, layers, how)
    else:
        needs = CRITERIA.get(how.criterion).needs
        layers = gather(model, needs, batches(data, model), seed, tensors)
        scores = score(layers, how.criterion, how.granularity)
    if within is not None:
        dead = {
            n: find_granularity(how.granularity).pool(m.float()) == 0 for n, m in within.items()
        }
        scores = {
            n: s.masked_fill(dead[n], -math.inf) if n in dead else s for n, s in scores.items()
        }
    counts = _counts(model, scores, budget, how, layers)
    units = find_granularity(how.granularity)
    return Masks(
        {n: units.expand(top(s, counts[n]), layers[n].weight) for n, s in scores.items()}, model
    )


def prune(
    model: nn.Module,
    method: str | Method = "magnitude",
    budget: Budget | float = Budget(0.9),  # noqa: B008  (frozen)
    *,
    data: "Iterable[Batch] | Data | None" = None,
    within: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    criterion: str | None = None,
    granularity: str | None = None,
    allocation: str | None = None,
    keep: Sequence[str] = (),
    layers: Mapping[str, float] | None = None,
) -> Masks:
    """In place: set the weights that ``method`` finds least worth keeping to exactly 0.0.

    To train on with the zeros held, pass the masks to :func:`thrifty.freeze`.

    Args:
        model: any module with convolutions, linear, attention or recurrent layers.
        method: a name of ``thrifty methods``; its fields may be overridden by the arguments
            ``criterion``, ``granularity``, ``allocation``.
        budget: ``Budget(.9)``, a plain sparsity, ``Budget(10_000, of="params")``, ...
        data: batches or a data set, for criteria that need gradients.
        within: masks of an earlier cut that this one must stay inside.
        seed: for criteria that draw lots.
        keep: patterns of layers to leave whole, such as ``["conv1", "classifier.*"]``.
        layers: with ``allocation="explicit"``: patterns of layers to sparsities.

    Returns:
        The masks, True where a weight is kept.

    Example:
        >>> model = nn.Linear(10, 10)
        >>> masks = prune(model, "magnitude", Budget(.9))
        >>> int((model.weight != 0).sum())
        10
    """
    learning(method)
    how = Cut.of(
        method,
        criterion=criterion,
        granularity=granularity,
        allocation=allocation,
        keep=tuple(keep) or None,
        layers=layers,
    )
    found = cut(model, how, budget, data=data, within=within, seed=seed)
    _masks.apply(model, found)
    return found


def learning(method: str | Method) -> None:
    """Refuse a method for weights whose scores only training gives.

    Raises:
        UserError: it is one; the message says what to call.
    """
    found = METHODS.get(method) if isinstance(method, str) else method
    if found.gate is not None and found.removes == "weights":
        name = method if isinstance(method, str) else found.gate
        raise UserError(
            f"{name} learns in training which weights go, and one cut trains nothing; run a recipe "
            f"with it (thrifty.run, thrifty prune), or put the gate {found.gate!r} into your own "
            f"loop and give cut(..., given=its scores)"
        )


def _learned(
    given: Mapping[str, Tensor], layers: Mapping[str, Layer], how: Cut
) -> dict[str, Tensor]:
    """Scores that gates have learned, of units, all finite: -inf is for what is pruned already.

    Raises:
        UserError: a score is NaN or of another shape, none is given, or scores below 0 are to be
            shared by an allocation that squares them.
    """
    units, found = find_granularity(how.granularity), {}
    for name, layer in layers.items():
        values = given[name].detach().to(layer.weight.device)
        if values.shape != layer.weight.shape or bool(torch.isnan(values).any()):
            wrong = "has NaN" if values.shape == layer.weight.shape else f"is {list(values.shape)}"
            raise UserError(
                f"the given score of {name} {wrong}; it has a number for each weight of "
                f"{list(layer.weight.shape)}"
            )
        found[name] = units.pool(torch.nan_to_num(values))
    if not found:
        raise UserError("scores were given for none of the layers that may be pruned")
    if how.allocation == "lamp" and any(bool((s < 0).any()) for s in found.values()):
        raise UserError(
            "the allocation lamp takes shares of squares, and these scores are below 0 in part; "
            "use global, uniform or erk"
        )
    return found


def batches(
    data: "Iterable[Batch] | Data | None", model: nn.Module, inputs: int = 1024, size: int = 128
) -> Iterable[Batch] | None:
    """Batches of (prepared inputs, labels) on the model's device; of a data set the first ones.

    Inputs without a label are taken only if there are no others.
    """
    if data is None:
        return None
    from thrifty.data import Data

    if not isinstance(data, Data):
        return data
    device, split = next(model.parameters()).device, data.labeled
    split = split if len(split) else data.train
    return (
        (data.prepare(split.inputs[i : i + size].to(device)), split.labels[i : i + size].to(device))
        for i in range(0, min(inputs, len(split)), size)
    )


def _counts(
    model: nn.Module,
    scores: Mapping[str, Tensor],
    budget: Budget,
    how: Cut,
    layers: Mapping[str, Layer],
) -> Counts:
    units = sum(s.numel() for s in scores.values())
    if budget.of == "threshold":
        return {n: max(1, int((s.double() >= budget.amount).sum())) for n, s in scores.items()}
    if budget.of in ("macs", "bytes", "latency"):
        raise UserError(
            f"zeros among the weights save no {budget.of}; give a sparsity or params, or use a "
            f"method that removes channels, such as l1_filter"
        )
    if budget.of == "params":
        weights = sum(layer.weight.numel() for layer in layers.values())
        every = sum(p.numel() for p in model.parameters())
        wanted = round(every * budget.amount) if budget.amount < 1 else round(budget.amount)
        fixed = every - weights
        if wanted > every or wanted - fixed < len(scores):
            raise UserError(
                f"a budget of {wanted} parameters cannot be met: {every} there are, of which "
                f"{fixed} cannot be pruned and each of {len(scores)} layers keeps at least one "
                f"weight; ask for {fixed + len(scores)} to {every}"
            )
        keep = round((wanted - fixed) / weights * units)
    else:
        keep = units - round(units * budget.amount)
    return allocate(scores, keep, how.allocation, how.layers)

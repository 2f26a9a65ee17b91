"""A stack in vector lanes: for plain chains of small layers, thirty times a framework's speed."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thrifty.data import Data, Split
from thrifty.native import lanes
from thrifty.population.engines import Judged, Learned, Moments, samples_of
from thrifty.population.plan import Plan
from thrifty.population.reading import Unfit, layers_of
from thrifty.population.stack import Stack

MOST_PARAMETERS = 60_000
"""Above which sixteen models no longer fit the second cache, and other engines are as fast."""


def unfit(stack: Stack, data: Data, plan: Plan | None = None) -> str | None:
    """Why the lanes cannot train this stack on this data; ``None`` if they can."""
    if plan is not None and (plan.shift or plan.flip):
        return "the lanes do not move pictures, and the plan has shift or flip"
    if stack.gates:
        return "the lanes know no gates"
    if not lanes.available():
        return "the compiled lanes are not installed"
    if samples_of(data, Split(data.train.inputs[:1], data.train.labels[:1])) is None:
        return "the inputs are no bytes"
    if stack.parameters > MOST_PARAMETERS:
        return f"a model has {stack.parameters:,} parameters, more than {MOST_PARAMETERS:,}"
    try:
        found = layers_of(stack.template(), stack.shape)
    except Unfit as error:
        return str(error)
    if not found[0].conv and len(data.mean) != 1:
        return "the first layer is linear and the data has several channels"
    return None


class LanesEngine:
    """Sixteen models an instruction.

    Args:
        noise: variational dropout, if the stack has ``spread``.
        moments: of the optimizer, to go on with.
    """

    def __init__(
        self,
        stack: Stack,
        data: Data,
        plan: Plan,
        *,
        noise: lanes.Noise | None = None,
        moments: Moments | None = None,
        threads: int = 1,
    ):
        self._stack, self._data, self._plan, self._noise = stack, data, plan, noise
        self._names = [name for name, _ in stack.template().named_parameters()]
        self._lanes = lanes.Lanes(layers_of(stack.template(), stack.shape), threads)
        self._train = samples_of(data, data.train)
        self._mask = self._flat_masks()
        given = {name: self._flat(of) for name, of in (moments or {}).items()}
        spread = None if stack.spread is None else self._flat(stack.spread)
        weights = self._flat(stack.tensors)
        if self._mask is not None:
            weights[~self._mask] = 0.0
        self.state = lanes.State(weights, spread=spread, **given)
        columns = stack.columns
        self._hyper = lanes.Hyper(
            lr=columns["lr"].astype(np.float32),
            weight_decay=columns["weight_decay"].astype(np.float32),
            dropout=columns["dropout"].astype(np.float32),
            seed=columns["seed"].astype(np.uint64),
        )
        self._optimizer = lanes.Optimizer(
            name=plan.optimizer, momentum=plan.momentum, nesterov=plan.nesterov
        )

    def noise(self, noise: lanes.Noise) -> None:
        """In place: other noise from the next epoch on."""
        self._noise = noise

    def epoch(self, number: int) -> Learned:
        """Do the epoch of that number, counted from 0."""
        assert self._train is not None
        size = min(self._plan.batch, len(self._train))
        steps = len(self._train) // size if size else 0
        return Learned(
            *self._lanes.train(
                self.state,
                self._train,
                self._hyper,
                self._optimizer,
                batch=self._plan.batch,
                epoch=number,
                mask=self._mask,
                rate=self._plan.rates(number, steps),
                shared=self._plan.shared_order,
                noise=self._noise,
            )
        )

    def hold(self, masks: Stack) -> None:
        """In place: from now on the masks of that stack stay zero."""
        self._stack = replace(self._stack, masks=masks.masks)
        self._mask = self._flat_masks()
        if self._mask is not None:
            self.state.weights[~self._mask] = 0.0

    def stack(self) -> Stack:
        """The models as they are now."""
        spread = self.state.spread
        return replace(
            self._stack,
            tensors=self._named(self.state.weights),
            spread=None if spread is None else self._named(spread),
        )

    def moments(self) -> Moments:
        """What the optimizer carries from epoch to epoch."""
        found = {name: getattr(self.state, name) for name in lanes.NAMES}
        kept = ("first", "second", "spread_first", "spread_second")
        return {n: self._named(x) for n, x in found.items() if n in kept and x is not None}

    def judge(self, split: Split) -> Judged:
        """The models on a split; under variational dropout without the weights that it cut."""
        samples = samples_of(self._data, split)
        assert samples is not None
        cut = self._noise.cut if self._noise is not None else 3.0
        return Judged(*self._lanes.evaluate(self.state, samples, cut=cut))

    def _flat(self, tensors: Mapping[str, Tensor]) -> NDArray[np.float32]:
        parts = [tensors[name].reshape(len(self._stack), -1) for name in self._names]
        flat: NDArray[np.float32] = torch.cat([p.float() for p in parts], 1).numpy()
        return flat

    def _flat_masks(self) -> NDArray[np.bool_] | None:
        if not self._stack.masks:
            return None
        whole = {
            name: self._stack.masks.get(name, torch.ones(x.shape, dtype=torch.bool))
            for name, x in self._stack.tensors.items()
        }
        return self._flat(whole).astype(np.bool_)

    def _named(self, array: NDArray[np.float32]) -> dict[str, Tensor]:
        found, at = {}, 0
        for name in self._names:
            like = self._stack.tensors[name]
            size = like[0].numel()
            part = np.ascontiguousarray(array[:, at : at + size])
            found[name] = torch.from_numpy(part).reshape(like.shape)
            at += size
        return found

"""A stack in torch, all models in one call by ``torch.vmap``: for what the lanes do not know."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from thrifty.data import Data, Split
from thrifty.errors import UserError
from thrifty.native.lanes import Noise, order
from thrifty.population.engines import Judged, Learned, Moments
from thrifty.population.plan import Plan
from thrifty.population.stack import Stack
from thrifty.training.loop import derive

BETA2, EPSILON = 0.999, 1e-8

Tensors = dict[str, Tensor]


def unstackable(stack: Stack) -> str | None:
    """Why torch cannot train this stack in one call; ``None`` if it can."""
    if stack.spread is not None:
        return "variational dropout of a stack runs in lanes only"
    template = stack.template()
    for name, module in template.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.RNNBase):
            return f"{name} is a {type(module).__name__}, which has a state of its own"
        if isinstance(module, nn.Dropout) and len(set(stack.columns["dropout"].tolist())) > 1:
            return "its models have different rates of dropout"
    return None


class StackedEngine:
    """All models at once, each on its own batch."""

    def __init__(
        self,
        stack: Stack,
        data: Data,
        plan: Plan,
        *,
        noise: Noise | None = None,
        moments: Moments | None = None,
    ):
        if noise is not None:
            raise UserError(
                f"{stack.model} is trained in torch, where a stack has no variational dropout; "
                f"use a chain of small layers, which the lanes train"
            )
        self._stack, self._data, self._plan = stack, data, plan
        self._model = stack.module(0)
        self._tensors: Tensors = {n: x.clone() for n, x in stack.tensors.items()}
        given = moments or {}
        self._first = {n: x.clone() for n, x in given.get("first", self._zeros()).items()}
        self._second = {n: x.clone() for n, x in given.get("second", self._zeros()).items()}
        self._masks = stack.masks
        self._mask_values()

    def epoch(self, number: int) -> Learned:
        """Do the epoch of that number, counted from 0."""
        data, plan, count = self._data, self._plan, len(self._stack)
        inputs, labels = data.train.inputs, data.train.labels
        size = min(plan.batch, len(labels))
        steps = len(labels) // size if size else 0
        seeds = [int(s) for s in self._stack.columns["seed"].tolist()]
        if plan.shared_order:
            seeds = seeds[:1] * count
        orders = torch.from_numpy(np.stack([order(s, number, len(labels)) for s in seeds])).long()
        rates = plan.rates(number, steps)
        torch.manual_seed(derive(seeds[0], "stack", number))
        self._model.train()
        step = vmap(grad_and_value(self._loss, has_aux=True), randomness="different")
        lost = torch.zeros(count, dtype=torch.float64)
        right = torch.zeros(count, dtype=torch.float64)
        for at in range(steps):
            picked = orders[:, at * size : (at + 1) * size]
            batch = data.prepare(inputs[picked.reshape(-1)]).reshape(count, size, *data.shape)
            gradients, (loss, hits) = step(self._tensors, batch, labels[picked])
            rate = 1.0 if rates is None else float(rates[at])
            self._move(gradients, rate, number * steps + at + 1)
            lost += loss.detach().double() * size
            right += hits.double()
        seen = max(1, steps * size)
        return Learned((lost / seen).numpy(), (right / seen).numpy())

    def stack(self) -> Stack:
        """The models as they are now."""
        return replace(self._stack, tensors={n: x.clone() for n, x in self._tensors.items()})

    def moments(self) -> Moments:
        """What the optimizer carries from epoch to epoch."""
        return {"first": dict(self._first), "second": dict(self._second)}

    @torch.no_grad()
    def judge(self, split: Split) -> Judged:
        """The models on a split."""
        self._model.eval()
        ask = vmap(lambda t, x: functional_call(self._model, t, (x,)), in_dims=(0, None))
        lost = torch.zeros(len(self._stack), dtype=torch.float64)
        classes = []
        for at in range(0, len(split), 200):
            labels = split.labels[at : at + 200]
            outputs = ask(self._tensors, self._data.prepare(split.inputs[at : at + 200]))
            flat = outputs.reshape(-1, outputs.shape[-1]).double()
            each = nn.functional.cross_entropy(
                flat, labels.repeat(len(self._stack)), reduction="none"
            )
            lost += each.reshape(len(self._stack), -1).sum(1)
            classes.append(outputs.argmax(2))
        found = torch.cat(classes, 1)
        right = (found == split.labels).double().mean(1)
        whole = lost / max(1, len(split))
        return Judged(whole.numpy(), right.numpy(), found.numpy().astype(np.uint8))

    def _loss(
        self, tensors: Mapping[str, Tensor], batch: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        outputs = functional_call(self._model, dict(tensors), (batch,))
        loss = nn.functional.cross_entropy(outputs, labels)
        hits = (outputs.argmax(1) == labels).sum()
        return loss, hits

    def _zeros(self) -> Tensors:
        return {n: torch.zeros_like(x) for n, x in self._stack.tensors.items()}

    def _mask_values(self) -> None:
        for name, mask in self._masks.items():
            self._tensors[name].masked_fill_(~mask, 0.0)

    @torch.no_grad()
    def _move(self, gradients: Mapping[str, Tensor], share: float, number: int) -> None:
        """In place: one step of the optimizer, each model at its own rate and decay."""
        plan, columns = self._plan, self._stack.columns
        for name, p in self._tensors.items():
            shape = (-1, *[1] * (p.dim() - 1))
            lr = torch.from_numpy(columns["lr"].astype(np.float32)).reshape(shape) * share
            decay = torch.from_numpy(columns["weight_decay"].astype(np.float32)).reshape(shape)
            g = gradients[name]
            if name in self._masks:
                g = g.masked_fill(~self._masks[name], 0.0)
            first, second, momentum = self._first[name], self._second[name], plan.momentum
            if plan.optimizer == "sgd":
                g = g + decay * p
                if momentum:
                    first.mul_(momentum).add_(g)
                    g = g + momentum * first if plan.nesterov else first
                p.sub_(lr * g)
                continue
            if plan.optimizer == "adam":
                g = g + decay * p
            else:
                p.mul_(1 - lr * decay)
            first.mul_(momentum).add_(g, alpha=1 - momentum)
            second.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
            bias, root = 1 - momentum**number, (1 - BETA2**number) ** 0.5
            p.sub_(lr / bias * first / (second.sqrt() / root + EPSILON))
        self._mask_values()

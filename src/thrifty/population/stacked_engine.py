"""A stack in torch, all models in one call by ``torch.vmap``: for what the lanes do not know."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from thrifty.data import Data, Split
from thrifty.population.batches import orders, presented, turns
from thrifty.population.engines import Judged, Learned, Moments, small
from thrifty.population.gating import Gating, network, still, unstackable_gate
from thrifty.population.optimizers import kinds, move
from thrifty.population.plan import Plan
from thrifty.population.stack import Stack
from thrifty.training.loop import derive

Tensors = dict[str, Tensor]


def unstackable(stack: Stack, gating: Gating | None = None) -> str | None:
    """Why torch cannot train this stack in one call; ``None`` if it can."""
    if stack.spread is not None:
        return "spread is what the lanes learn; in torch, variational dropout is a gate"
    template = stack.template()
    for name, module in template.named_modules():
        odd = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is None
        if odd or isinstance(module, nn.RNNBase):
            return f"{name} is a {type(module).__name__}, which torch does not map over models"
        if isinstance(module, nn.Dropout) and len(set(stack.columns["dropout"].tolist())) > 1:
            return "its models have different rates of dropout"
    hidden = {name for name, _ in template.named_buffers()} - set(stack.tensors)
    if hidden:
        return f"{min(hidden)} is a state that no checkpoint has"
    return unstackable_gate(gating)


class StackedEngine:
    """All models at once, each on its own batch.

    Args:
        moments: of the optimizer, to go on with.
        gating: a gate on single weights, if the stack has ``gates``.
    """

    def __init__(
        self,
        stack: Stack,
        data: Data,
        plan: Plan,
        *,
        moments: Moments | None = None,
        gating: Gating | None = None,
    ):
        self._stack, self._data, self._plan, self._gating = stack, data, plan, gating
        self._model = network(stack, data, gating)
        spared: frozenset[str] = frozenset()
        if gating is not None:
            spared = frozenset(gating.gate.variables(self._model))
            still(self._model)
        self._spared, self._progress = spared, 0.0
        self._asked = _Asked(self._model, gating)
        buffers = stack.buffers
        every = {**stack.tensors, **stack.gates}
        self._tensors: Tensors = {n: x.clone() for n, x in every.items() if n not in buffers}
        self._buffers: Tensors = {n: x.clone() for n, x in every.items() if n in buffers}
        self._moments = {
            kind: {n: x.clone() for n, x in (moments or {}).get(kind, self._zeros()).items()}
            for kind in kinds(plan)
        }
        self.hold(stack)

    def hold(self, masks: Stack) -> None:
        """In place: from now on the masks of that stack stay zero."""
        self._stack = replace(self._stack, masks=masks.masks)
        for name, mask in self._stack.masks.items():
            self._tensors[name].masked_fill_(~mask, 0.0)

    def epoch(self, number: int) -> Learned:
        """Do the epoch of that number, counted from 0."""
        data, plan, count = self._data, self._plan, len(self._stack)
        labels = data.train.labels
        size = min(plan.batch, len(labels))
        steps = len(labels) // size if size else 0
        seeds = [int(s) for s in self._stack.columns["seed"].tolist()]
        whole = orders(seeds, number, len(labels), plan.shared_order)
        moved = [turns(seed, number, plan) for seed in seeds]
        rates = plan.rates(number, steps)
        torch.manual_seed(derive(seeds[0], "stack", number))
        self._model.train()
        step = vmap(
            grad_and_value(self._loss, has_aux=True),
            randomness="different",
        )
        lost = torch.zeros(count, dtype=torch.float64)
        right = torch.zeros(count, dtype=torch.float64)
        for at in range(steps):
            picked = whole[:, at * size : (at + 1) * size]
            batch = self._batch(picked, moved)
            if self._gating is not None:
                self._progress = self._gating.progress(number, at / steps)
            gradients, (_, (loss, hits, self._buffers)) = step(
                self._tensors, self._buffers, batch, labels[picked]
            )
            rate = 1.0 if rates is None else float(rates[at])
            self._move(gradients, rate, number * steps + at + 1)
            lost += loss.detach().double() * size
            right += hits.double()
        seen = max(1, steps * size)
        return Learned((lost / seen).numpy(), (right / seen).numpy())

    def stack(self) -> Stack:
        """The models as they are now."""
        own = {**self._tensors, **self._buffers}
        return replace(
            self._stack,
            tensors={n: own[n].clone() for n in self._stack.tensors},
            gates={n: own[n].clone() for n in self._stack.gates},
        )

    def moments(self) -> Moments:
        """What the optimizer carries from epoch to epoch."""
        return {kind: dict(of) for kind, of in self._moments.items()}

    @torch.no_grad()
    def judge(self, split: Split) -> Judged:
        """The models on a split."""
        self._model.eval()

        def answer(tensors: Tensors, inputs: Tensor) -> Tensor:
            found: Tensor = functional_call(self._model, tensors, (inputs,))
            return found

        ask = vmap(answer, in_dims=(0, None))
        lost = torch.zeros(len(self._stack), dtype=torch.float64)
        classes = []
        for at in range(0, len(split), 200):
            labels = split.labels[at : at + 200]
            inputs = self._data.prepare(split.inputs[at : at + 200])
            outputs = ask({**self._tensors, **self._buffers}, inputs)
            flat = outputs.reshape(-1, outputs.shape[-1]).double()
            each = nn.functional.cross_entropy(
                flat, labels.repeat(len(self._stack)), reduction="none"
            )
            lost += each.reshape(len(self._stack), -1).sum(1)
            classes.append(outputs.argmax(2))
        found = torch.cat(classes, 1)
        right = (found == split.labels).double().mean(1)
        whole = lost / max(1, len(split))
        return Judged(whole.numpy(), right.numpy(), small(found.numpy(), self._stack.classes))

    def _batch(self, picked: Tensor, moved: list[torch.Generator | None]) -> Tensor:
        """(models, inputs, *shape), each model's own."""
        if not any(moved):
            flat = presented(self._data, picked.reshape(-1), self._plan, None)
            return flat.reshape(*picked.shape, *self._data.shape)
        pairs = zip(picked, moved, strict=True)
        return torch.stack([presented(self._data, r, self._plan, m) for r, m in pairs])

    def _loss(
        self, tensors: Tensors, buffers: Tensors, batch: Tensor, labels: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensors]]:
        """What is minimised; the mean loss, right answers, and buffers after the step."""
        changed = {name: x.clone() for name, x in buffers.items()}  # in place, by the network
        named = {f"model.{name}": x for name, x in {**tensors, **changed}.items()}
        outputs, penalty = functional_call(self._asked, named, (batch, self._progress))
        loss = nn.functional.cross_entropy(outputs, labels)
        hits = (outputs.argmax(1) == labels).sum()
        whole = loss if penalty is None else loss + penalty
        return whole, (loss, hits, changed)

    def _zeros(self) -> Tensors:
        return {n: torch.zeros_like(x) for n, x in self._tensors.items()}

    @torch.no_grad()
    def _move(self, gradients: Tensors, share: float, number: int) -> None:
        """In place: one step of the optimizer, each model at its own rate and decay."""
        columns, masks = self._stack.columns, self._stack.masks
        for name, p in self._tensors.items():
            shape = (-1, *[1] * (p.dim() - 1))
            lr = torch.from_numpy(columns["lr"].astype(np.float32)).reshape(shape) * share
            decay = torch.from_numpy(columns["weight_decay"].astype(np.float32)).reshape(shape)
            g = gradients[name]
            if name in masks:
                g = g.masked_fill(~masks[name], 0.0)
            moments = tuple(self._moments[kind][name] for kind in kinds(self._plan))
            free = torch.zeros_like(decay) if name in self._spared else decay
            move(p, g, moments, self._plan, lr=lr, decay=free, number=number)
            if name in masks:
                p.masked_fill_(~masks[name], 0.0)


class _Asked(nn.Module):
    """A network and the penalty of its gate, as one call that torch.func maps."""

    def __init__(self, model: nn.Module, gating: Gating | None):
        super().__init__()
        self.model, self.gate = model, None if gating is None else gating.gate

    def forward(self, inputs: Tensor, progress: float) -> tuple[Tensor, Tensor | None]:
        penalty = None if self.gate is None else self.gate.penalty(self.model, progress)
        return self.model(inputs), penalty

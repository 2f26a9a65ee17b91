"""Populations in torch: eager models one after another, torch.func.vmap, grouped convolutions.

All take batches in the order of the lanes, so that their answers can be compared.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from problem import ACTS, BETA1, BETA2, DECAY, EPSILON, RATE, Problem, Weights, forward
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, linear, max_pool2d

from thrifty.native import lanes
from thrifty.nets import resolve

KL = (0.63576, 1.87320, 1.48695)
"""Of the divergence of variational dropout, Molchanov et al., 2017."""


def batches(said: Problem, model: int, steps: int) -> Iterator[Tensor]:
    """Rows of each step of a model, epoch after epoch, as the lanes take them."""
    count, epoch = len(said.labels), 0
    each = count // said.batch
    while steps > 0:
        rows = torch.from_numpy(lanes.order(model, epoch, count)).long()
        for step in range(min(each, steps)):
            yield rows[step * said.batch : (step + 1) * said.batch]
        steps, epoch = steps - each, epoch + 1


def adam(tensors: list[Tensor], **said: Any) -> torch.optim.Adam:
    """Adam as all contenders have it."""
    betas = (BETA1, BETA2)
    return torch.optim.Adam(tensors, RATE, betas, EPSILON, weight_decay=DECAY, **said)


class Eager:
    """A module a model and an optimizer a model, one after another; the first model is timed."""

    models = 1

    def __init__(self, said: Problem, fused: bool = False, double: bool = False):
        self._said, self._type = said, torch.float64 if double else torch.float32
        self._x, self._y = said.inputs.to(self._type), torch.from_numpy(said.labels)
        shape = said.pictures.shape[1:]
        self._nets = [resolve(said.spec, classes=10, shape=shape) for _ in range(said.models)]
        for number, net in enumerate(self._nets):
            net.to(self._type)
            with torch.no_grad():
                for p, w in zip(net.parameters(), said.weights, strict=True):
                    p.copy_(w[number])
        self._optimizers = [adam(list(net.parameters()), fused=fused) for net in self._nets]

    def run(self, steps: int) -> None:
        """So many steps of the first model."""
        self._steps(0, 0, steps)

    def answers(self, steps: int, own: bool) -> Weights:
        """Weights of all models after so many steps."""
        for number in range(len(self._nets)):
            self._steps(number, number if own else 0, steps)
        every = zip(*(net.parameters() for net in self._nets), strict=True)
        return [torch.stack([p.detach() for p in each]) for each in every]

    def _steps(self, number: int, order: int, steps: int) -> None:
        net, optimizer = self._nets[number], self._optimizers[number]
        for rows in batches(self._said, order, steps):
            optimizer.zero_grad()
            cross_entropy(net(self._x[rows]), self._y[rows]).backward()
            optimizer.step()


class Stacked:
    """All models at once: ``loss`` gives the sum of their losses."""

    def __init__(self, said: Problem, own: bool = False):
        self._said, self._own, self.models = said, own, said.models
        self._x, self._y = said.inputs, torch.from_numpy(said.labels)
        self._weights = [w.clone().requires_grad_() for w in said.weights]
        self._optimizer = adam(self._weights, fused=True)

    def run(self, steps: int) -> None:
        """So many steps of all models."""
        count = self.models if self._own else 1
        for rows in zip(*(batches(self._said, k, steps) for k in range(count)), strict=True):
            picked = torch.stack(rows) if self._own else rows[0]
            self._gradients(self._x[picked], self._y[picked])
            self._optimizer.step()

    def answers(self, steps: int) -> Weights:
        """Weights of all models after so many steps."""
        self.run(steps)
        return [w.detach() for w in self._weights]

    def _gradients(self, x: Tensor, y: Tensor) -> None:
        raise AssertionError("each way has its own")


class Mapped(Stacked):
    """torch.func.vmap over grad."""

    def __init__(self, said: Problem, own: bool = False):
        super().__init__(said, own)
        layers = said.layers

        def loss(weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(forward(layers, weights, x), y)

        where = 0 if own else None
        self._step = torch.func.vmap(torch.func.grad(loss), in_dims=(0, where, where))

    def _gradients(self, x: Tensor, y: Tensor) -> None:
        found = self._step([w.detach() for w in self._weights], x, y)
        for w, g in zip(self._weights, found, strict=True):
            w.grad = g


class Grouped(Stacked):
    """A group of channels a model; linear layers as batches of matrices."""

    def _gradients(self, x: Tensor, y: Tensor) -> None:
        self._optimizer.zero_grad()
        k, n = self.models, self._said.batch
        if self._own:
            x, y = x.transpose(0, 1), y.transpose(0, 1)
        else:
            x, y = x[:, None].expand(n, k, *x.shape[1:]), y[:, None].expand(n, k)
        x = x.reshape(n, k * x.shape[2], *x.shape[3:])
        for number, layer in enumerate(self._said.layers):
            w, b = self._weights[2 * number : 2 * number + 2]
            if layer.conv:
                x = conv2d(x, w.flatten(0, 1), b.flatten(), layer.stride, layer.padding, groups=k)
                x = max_pool2d(x, layer.pool, layer.pool_stride) if layer.pool > 1 else x
            else:
                if x.dim() == 4:
                    x = x.reshape(n, k, -1).transpose(0, 1)
                x = torch.baddbmm(b[:, None], x, w.transpose(1, 2))
            x = ACTS[layer.act](x)
        flat = x.transpose(0, 1).reshape(n * k, -1)
        (cross_entropy(flat, y.reshape(-1)) * k).backward()


class Noisy:
    """Variational dropout by local reparametrisation, eager, one model."""

    models = 1

    def __init__(self, said: Problem, divergence: float, clips: tuple[float, float]):
        self._said, self._divergence, self._clips = said, divergence, clips
        self._x, self._y = said.inputs, torch.from_numpy(said.labels)
        self._weights = [w[0].clone().requires_grad_() for w in said.weights]
        self._spread = [torch.full_like(w, -10.0).requires_grad_() for w in self._weights[::2]]
        self._optimizer = adam([*self._weights, *self._spread])

    def run(self, steps: int) -> float:
        """So many steps; the mean loss."""
        lost = 0.0
        for rows in batches(self._said, 0, steps):
            self._optimizer.zero_grad()
            outputs, kl = self._forward(self._x[rows])
            loss = cross_entropy(outputs, self._y[rows])
            (loss + self._divergence * kl).backward()
            self._optimizer.step()
            lost += loss.item()
        return lost / steps

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kl = torch.zeros(())
        for number, layer in enumerate(self._said.layers):
            w, b = self._weights[2 * number : 2 * number + 2]
            most = self._clips[0 if layer.conv else 1]
            alpha = self._spread[number] - 2 * (w.abs() + 1e-15).log()
            alpha = alpha.clamp(-most, most)
            kl = (
                kl
                - (
                    KL[0] * torch.sigmoid(KL[1] + KL[2] * alpha)
                    - 0.5 * torch.log1p((-alpha).exp())
                    - KL[0]
                ).sum()
            )
            variance = alpha.exp() * w.square()
            if layer.conv:
                mean = conv2d(x, w, b, layer.stride, layer.padding)
                spread = conv2d(x.square(), variance, None, layer.stride, layer.padding)
            else:
                x = x.flatten(1)
                mean, spread = linear(x, w, b), linear(x.square(), variance)
            x = mean + (spread + 1e-15).sqrt() * torch.randn_like(mean)
            if layer.conv and layer.pool > 1:
                x = max_pool2d(x, layer.pool, layer.pool_stride)
            x = ACTS[layer.act](x)
        return x, kl


class Asked:
    """The first model on all pictures, a thousand at a time."""

    models = 1

    def __init__(self, said: Problem):
        self._nets: list[nn.Module] = []
        for number in range(said.models):
            net = resolve(said.spec, classes=10, shape=said.pictures.shape[1:]).eval()
            with torch.no_grad():
                for p, w in zip(net.parameters(), said.weights, strict=True):
                    p.copy_(w[number])
            self._nets.append(net)
        self._x = said.inputs

    @torch.no_grad()
    def run(self, passes: int) -> np.ndarray:
        """So many passes of the first model."""
        for _ in range(passes):
            found = self.classes(0)
        return found

    @torch.no_grad()
    def classes(self, number: int) -> np.ndarray:
        """(n,) of one model."""
        parts = [self._nets[number](x).argmax(1) for x in self._x.split(1000)]
        return torch.cat(parts).numpy()


MAKERS: dict[str, Callable[[Problem], Stacked]] = {
    "torch.func.vmap": Mapped,
    "torch.func.vmap, own batches": lambda said: Mapped(said, own=True),
    "torch, grouped convolutions": Grouped,
}
"""Ways to train a stack, by name."""

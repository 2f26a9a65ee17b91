"""Lanes: gradients, optimizers, noise and masks of every model are those of float64 torch."""

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from thrifty import native
from thrifty.errors import UserError
from thrifty.native import lanes
from thrifty.native.lanes import ACTS, Hyper, Lanes, Layer, Noise, Optimizer, Samples, State, order

pytestmark = pytest.mark.skipif(not lanes.available(), reason="the lanes are not compiled")

TARGETS = [t for t in native.available() if t != "numpy"]
K1, K2, K3 = 0.63576, 1.8732, 1.48695


def drawn(r: random.Random) -> list[Layer]:
    """Layers of every kind that fit each other."""
    channels, height = r.choice([1, 2, 3]), r.randint(7, 16)
    width = height if r.random() < 0.7 else r.randint(7, 16)
    made = []
    for _ in range(r.randint(0, 3)):
        kernel, stride = r.choice([1, 2, 3, 3, 4, 5, 7]), r.choice([1, 1, 1, 2])
        padding = min(r.choice([0, 0, 1, kernel // 2]), kernel)
        if kernel > min(height, width) + 2 * padding:
            break
        tall, wide = ((n + 2 * padding - kernel) // stride + 1 for n in (height, width))
        pool = r.choice([1, 2, 2, 2, 3])
        pool_stride = 1 if pool == 1 else pool if r.random() < 0.7 else r.randint(1, 3)
        if pool > min(tall, wide):
            pool = pool_stride = 1
        layer = Layer(
            conv=True, inputs=channels, outputs=r.randint(1, 11), height=height, width=width,
            kernel=kernel, stride=stride, padding=padding, pool=pool, pool_stride=pool_stride,
            pool_first=r.random() < 0.5, act=r.choice(ACTS), bias=r.random() < 0.8,
        )  # fmt: skip
        made.append(layer)
        height, width = ((n - pool) // pool_stride + 1 for n in (tall, wide))
        channels = layer.outputs
    numbers = channels * height * width
    for _ in range(r.randint(0, 2)):
        outputs = r.randint(2, 19)
        made.append(
            Layer(conv=False, inputs=numbers, outputs=outputs, act=r.choice(ACTS),
                  bias=r.random() < 0.8)
        )  # fmt: skip
        numbers = outputs
    return [*made, Layer(conv=False, inputs=numbers, outputs=r.randint(2, 10))]


def small() -> list[Layer]:
    return [
        Layer(conv=True, inputs=1, outputs=5, height=9, width=9, kernel=3, pool=2, pool_stride=2,
              act="tanh"),
        Layer(conv=False, inputs=45, outputs=7, act="relu"),
        Layer(conv=False, inputs=7, outputs=4),
    ]  # fmt: skip


def activated(act: str, x: Tensor) -> Tensor:
    return x if act == "none" else getattr(functional if act != "tanh" else torch, act)(x)


def shaped(layer: Layer, p: Tensor, at: int) -> tuple[Tensor, Tensor | None, int]:
    """Weight and bias of a layer out of the flat parameters, and where the next begins."""
    weight = p[at : at + layer.weights]
    side = (layer.inputs, layer.kernel, layer.kernel) if layer.conv else (layer.inputs,)
    at += layer.weights
    bias = p[at : at + layer.outputs] if layer.bias else None
    return weight.reshape(layer.outputs, *side), bias, at + (layer.outputs if layer.bias else 0)


def applied(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not layer.conv:
        return functional.linear(x.flatten(1), weight, bias)
    x = x.reshape(len(x), layer.inputs, layer.height, layer.width)
    return functional.conv2d(x, weight, bias, layer.stride, layer.padding)


def followed(layer: Layer, x: Tensor) -> Tensor:
    def pooled(x: Tensor) -> Tensor:
        return functional.max_pool2d(x, layer.pool, layer.pool_stride) if layer.pool > 1 else x

    if layer.pool_first:
        return activated(layer.act, pooled(x)).flatten(1)
    return pooled(activated(layer.act, x)).flatten(1)


def logits(layers: list[Layer], p: Tensor, x: Tensor) -> Tensor:
    at = 0
    for layer in layers:
        weight, bias, at = shaped(layer, p, at)
        x = followed(layer, applied(layer, x, weight, bias))
    return x


def samples(layers: list[Layer], count: int, seed: int) -> Samples:
    g = np.random.default_rng(seed)
    first = layers[0]
    numbers = first.inputs * first.height * first.width
    channels = first.inputs if first.conv else 1
    return Samples(
        g.integers(0, 256, (count, numbers), dtype=np.uint8),
        g.integers(0, layers[-1].outputs, count).astype(np.int32),
        g.random(channels).astype(np.float32),
        (g.random(channels) + 0.2).astype(np.float32),
    )


def seen(layers: list[Layer], given: Samples) -> Tensor:
    channels = len(given.mean)
    x = torch.tensor(given.inputs, dtype=torch.float64).reshape(len(given), channels, -1) / 255
    mean, deviation = (
        torch.tensor(v, dtype=torch.float64).reshape(1, channels, 1)
        for v in (given.mean, given.deviation)
    )
    return ((x - mean) / deviation).flatten(1)


def models(layers: list[Layer], count: int, seed: int) -> np.ndarray:
    g = np.random.default_rng(seed)
    parts = []
    for layer in layers:
        fan = layer.weights // layer.outputs
        parts.append(g.standard_normal((count, layer.weights)) / math.sqrt(fan))
        if layer.bias:
            parts.append(0.1 * g.standard_normal((count, layer.outputs)))
    return np.concatenate(parts, 1).astype(np.float32)


def hyper(count: int, lr: float = 1.0, decay: float = 0.0, dropout: float = 0.0) -> Hyper:
    def full(x: float) -> np.ndarray:
        return np.full(count, x, np.float32)

    return Hyper(
        lr=full(lr), weight_decay=full(decay), dropout=full(dropout),
        seed=np.arange(count, dtype=np.uint64),
    )  # fmt: skip


PLAIN = Optimizer(name="sgd", momentum=0.0)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(40))
def test_a_step_of_plain_descent_is_the_gradient_of_float64_torch(seed, target):
    r = random.Random(seed)
    layers, count, n = drawn(r), r.randint(1, 19), r.randint(1, 7)
    given, weights = samples(layers, n, seed), models(layers, count, seed)
    shared = r.random() < 0.5
    state = State(weights.copy())
    with native.use(target):
        population = Lanes(layers)
        population.train(state, given, hyper(count), PLAIN, batch=n, epoch=seed, shared=shared)
        loss, accuracy, classes = population.evaluate(State(weights), given)
    x, labels = seen(layers, given), torch.tensor(given.labels).long()
    for k in range(0, count, 3):
        p = torch.tensor(weights[k], dtype=torch.float64, requires_grad=True)
        found = functional.cross_entropy(logits(layers, p, x), labels)
        found.backward()
        step = torch.tensor(weights[k] - state.weights[k], dtype=torch.float64)
        scale = max(1.0, float(p.detach().abs().max()))  # what float32 keeps of the weights
        assert p.grad is not None
        limit = 2e-5 * float(p.grad.abs().max()) + 4e-7 * scale
        assert float((step - p.grad).abs().max()) < limit
        assert loss[k] == pytest.approx(float(found.detach()), rel=1e-4, abs=1e-5)
        outputs = logits(layers, p.detach(), x)
        sure = (outputs.topk(2).values.diff(dim=1).abs() > 1e-3)[:, 0]
        assert torch.equal(outputs.argmax(1)[sure], torch.tensor(classes[k]).long()[sure])
        assert accuracy[k] == pytest.approx((classes[k] == given.labels).mean())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("name", "momentum", "nesterov"),
    [("sgd", 0.0, False), ("sgd", 0.9, False), ("sgd", 0.9, True), ("adam", 0.9, False),
     ("adamw", 0.8, False)],
)  # fmt: skip
def test_optimizers_are_those_of_torch_with_rates_of_their_own(name, momentum, nesterov, target):
    layers, n = small(), 12
    given, weights = samples(layers, n, 5), models(layers, 3, 5)
    rates, decays = np.float32([0.01, 0.02, 0.005]), np.float32([0.0, 0.1, 0.01])
    own = Hyper(
        lr=rates, weight_decay=decays, dropout=np.zeros(3, np.float32), seed=np.uint64([4, 5, 6])
    )
    state, shares = State(weights.copy()), np.float32([1.0, 0.5, 0.25])
    with native.use(target):
        for epoch in range(2):
            Lanes(layers).train(
                state, given, own, Optimizer(name=name, momentum=momentum, nesterov=nesterov),
                batch=4, epoch=epoch, rate=shares,
            )  # fmt: skip
    x, labels = seen(layers, given), torch.tensor(given.labels).long()
    for k in range(3):
        p = torch.tensor(weights[k], dtype=torch.float64, requires_grad=True)
        said = {"lr": 0.0, "weight_decay": float(decays[k])}
        optimizer = (
            torch.optim.SGD([p], momentum=momentum, nesterov=nesterov, **said)
            if name == "sgd"
            else {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](
                [p], betas=(momentum, 0.999), **said
            )
        )
        for epoch in range(2):
            turn = torch.from_numpy(order(4 + k, epoch, n)).long()
            for step in range(3):
                optimizer.param_groups[0]["lr"] = float(rates[k] * shares[step])
                picked = turn[4 * step : 4 * step + 4]
                optimizer.zero_grad()
                functional.cross_entropy(logits(layers, p, x[picked]), labels[picked]).backward()
                optimizer.step()
        np.testing.assert_allclose(state.weights[k], p.detach().numpy(), rtol=2e-3, atol=2e-4)


class Draws:
    """The random numbers of a lane, as native/lanes/lane.h makes them."""

    def __init__(self, seed: int, epoch: int):
        self.state = (lanes._mixed(seed, epoch, 1) & 0xFFFFFFFF) | 1

    def uniform(self) -> float:
        x = self.state
        x ^= (x << 13) & 0xFFFFFFFF
        x ^= x >> 17
        x ^= (x << 5) & 0xFFFFFFFF
        self.state = x
        return (x >> 8) / (1 << 24)

    def normals(self, count: int) -> Tensor:
        found: list[float] = []
        while len(found) < count:
            radius = math.sqrt(-2 * math.log(1 - self.uniform()))
            angle = 2 * math.pi * self.uniform()
            found += [radius * math.cos(angle), radius * math.sin(angle)]
        return torch.tensor(found[:count], dtype=torch.float64)


def noisy_loss(
    layers: list[Layer], p: Tensor, spread: Tensor, x: Tensor, labels: Tensor, draws: Draws,
    noise: Noise, dropout: float,
) -> Tensor:  # fmt: skip
    def alpha(theta: Tensor, log_sigma: Tensor, limit: float) -> Tensor:
        return (log_sigma - 2 * torch.log(theta.abs() + 1e-15)).clamp(-limit, limit)

    results = []
    for n in range(len(x)):
        h, at = x[n : n + 1], 0
        for layer in layers:
            limit = noise.clip_conv if layer.conv else noise.clip_linear
            weight, bias, end = shaped(layer, p, at)
            deviation, bias_deviation, at = shaped(layer, spread, at)
            variance = alpha(weight, deviation, limit).exp() * weight**2
            bias_variance = None
            if noise.biases and layer.conv and bias is not None:
                bias_variance = alpha(bias, bias_deviation, limit).exp() * bias**2
            mean = applied(layer, h, weight, bias)
            spreads = applied(layer, h * h, variance, bias_variance)
            drawn = draws.normals(mean.numel()).reshape(mean.shape)
            h = followed(layer, mean + torch.sqrt(spreads + 1e-15) * drawn)
            if layer.dropout:
                kept = [draws.uniform() < 1 - dropout for _ in range(h.numel())]
                h = h * torch.tensor(kept).double() / (1 - dropout)
            assert end == at
        results.append(h)
    total, at = functional.cross_entropy(torch.cat(results), labels), 0
    for layer in layers:
        limit = noise.clip_conv if layer.conv else noise.clip_linear
        noisy = layer.weights
        if noise.biases and layer.conv and layer.bias:
            noisy += layer.outputs
        a = alpha(p[at : at + noisy], spread[at : at + noisy], limit)
        fit = K1 * torch.sigmoid(K2 + K3 * a) - 0.5 * torch.log1p(torch.exp(-a)) - K1
        total = total - noise.divergence * fit.sum()
        at = shaped(layer, p, at)[2]
    return total


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(8))
def test_a_step_under_noise_and_dropout_is_that_of_float64_torch(seed, target):
    r = random.Random(seed + 77)
    layers = drawn(r)
    if seed % 2:
        layers = [Layer(**{**vars(each), "dropout": True}) for each in layers[:-1]] + layers[-1:]
    given, weights = samples(layers, r.randint(1, 3), seed), models(layers, 5, seed)
    weights[:, 0] = 0.0
    spread = np.random.default_rng(seed).uniform(-12, 3, weights.shape).astype(np.float32)
    noise = Noise(divergence=1e-3, clip_linear=10.0, biases=r.random() < 0.5)
    state = State(weights.copy(), spread=spread.copy())
    with native.use(target):
        Lanes(layers).train(
            state, given, hyper(5, dropout=0.3), PLAIN, batch=len(given), epoch=seed, noise=noise
        )
    x, labels = seen(layers, given), torch.tensor(given.labels).long()
    for k in (0, 4):
        p = torch.tensor(weights[k], dtype=torch.float64, requires_grad=True)
        s = torch.tensor(spread[k], dtype=torch.float64, requires_grad=True)
        turn = torch.from_numpy(order(k, seed, len(given))).long()
        loss = noisy_loss(layers, p, s, x[turn], labels[turn], Draws(k, seed), noise, 0.3)
        loss.backward()
        for before, after, variable in ((weights, state.weights, p), (spread, state.spread, s)):
            step = torch.tensor(before[k].astype(np.float64) - after[k])
            assert variable.grad is not None
            most = float(variable.grad.abs().max())
            room = 2e-6 * max(1.0, float(np.abs(before[k]).max()))
            assert float((step - variable.grad).abs().max()) < 2e-4 * most + room


@pytest.mark.parametrize("target", TARGETS)
def test_masked_weights_stay_exactly_zero_in_every_optimizer(target):
    layers = small()
    given, weights = samples(layers, 8, 1), models(layers, 6, 1)
    mask = np.random.default_rng(2).random(weights.shape) > 0.6
    for name in ("sgd", "adam", "adamw"):
        state = State(weights.copy(), np.ones_like(weights), np.ones_like(weights))
        with native.use(target):
            Lanes(layers).train(
                state, given, hyper(6, 0.1, 0.1), Optimizer(name=name), batch=2, epoch=0, mask=mask
            )
        assert (state.weights[~mask].view(np.uint32) == 0).all()
        assert (state.weights[mask] != weights[mask]).any()


@pytest.mark.parametrize("target", TARGETS)
def test_a_model_that_diverges_leaves_the_others_as_they_are_and_its_zeros_at_zero(target):
    layers = small()
    given, weights = samples(layers, 8, 1), models(layers, 20, 1)
    mask = np.random.default_rng(2).random(weights.shape) > 0.5
    alone, beside = State(weights.copy()), State(weights.copy())
    beside.weights[7, 3] = np.nan
    beside.weights[9, 3] = np.inf
    with native.use(target):
        population = Lanes(layers, threads=2)
        for state in (alone, beside):
            population.train(
                state, given, hyper(20, 0.01), Optimizer(), batch=2, epoch=0, mask=mask
            )
    others = [k for k in range(20) if k not in (7, 9)]
    assert np.array_equal(alone.weights[others], beside.weights[others])
    assert np.isnan(beside.weights[7][mask[7]]).any()
    assert (beside.weights[~mask].view(np.uint32) == 0).all()


def test_noise_cuts_weights_of_high_log_alpha_in_evaluation():
    layers = small()
    given, weights = samples(layers, 30, 1), models(layers, 4, 1)
    spread = np.full_like(weights, -20.0)
    cut = np.random.default_rng(3).random(weights.shape) > 0.5
    at = 0
    for layer in layers:  # biases of these layers have no noise
        cut[:, at + layer.weights : at + layer.weights + layer.outputs] = False
        at += layer.weights + layer.outputs
    spread[cut] = 20.0
    plain = np.where(cut, np.float32(0), weights)
    with_noise = Lanes(layers).evaluate(State(weights, spread=spread), given)
    without = Lanes(layers).evaluate(State(plain), given)
    assert np.array_equal(with_noise[0], without[0])
    assert np.array_equal(with_noise[2], without[2])


def test_order_is_a_permutation_that_seed_and_epoch_decide():
    found = {tuple(order(s, e, 50)) for s in range(5) for e in range(5)}
    assert len(found) == 25
    assert all(sorted(each) == list(range(50)) for each in found)


def test_order_without_the_extension_is_the_same(monkeypatch):
    compiled = [order(s, e, 97) for s, e in ((0, 0), (5, 2), (2**63, 9))]
    monkeypatch.setattr(lanes, "_lanes", None)
    plain = [order(s, e, 97) for s, e in ((0, 0), (5, 2), (2**63, 9))]
    assert all(np.array_equal(a, b) for a, b in zip(compiled, plain, strict=True))


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([], "a layer at least"),
        ([Layer(conv=False, inputs=3, outputs=0)], "a size"),
        ([Layer(conv=False, inputs=3, outputs=4), Layer(conv=False, inputs=5, outputs=2)], "given"),
        ([Layer(conv=True, inputs=1, outputs=2, height=3, width=3, kernel=5)], "larger than"),
        ([Layer(conv=True, inputs=1, outputs=2, height=5, width=5, kernel=3)], "one number"),
        ([Layer(conv=False, inputs=1 << 16, outputs=1 << 16)], "2.24 numbers"),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers, said):
    with pytest.raises(UserError, match=said):
        Lanes(layers)


def test_labels_that_are_no_class_are_refused():
    layers = small()
    given = samples(layers, 5, 0)
    given.labels[2] = 4
    with pytest.raises(ValueError, match="no class"):
        Lanes(layers).evaluate(State(models(layers, 2, 0)), given)


def test_threads_change_nothing():
    layers = small()
    given, weights = samples(layers, 20, 1), models(layers, 70, 1)
    states = [State(weights.copy()) for _ in range(2)]
    for state, threads in zip(states, (1, 3), strict=True):
        Lanes(layers, threads).train(
            state, given, hyper(70, 0.01, dropout=0.2), Optimizer(), batch=3, epoch=0
        )
    assert np.array_equal(states[0].weights, states[1].weights)

"""ThriftyNet: one convolution used again and again, so that parameters are saved by construction.

An iteration computes x' = BN_t(alpha_0 act(conv(x)) + sum_i alpha_i x_i) from the ``history``
newest outputs x_i, x_1 = x first; the convolution is one for all iterations, batch normalisation
and coefficients are each iteration's own.  The activation comes before the sum and the
normalisation after it.  The input is not convolved into the stream but filled up with channels of
zeros, and the classes are read from the maximum of each channel.

Two buffers tell what is left, for a file must tell it: ``kept``, channels of the stream, and
``links``, coefficients.  A link that is gone is not computed, be it the convolution of an iteration
(link 0) or an output before it.  No tracer follows branches on the numbers of a buffer, so these
are read when they may have changed, and the forward pass asks what was read.

References:
    Coiffier, Boukli Hacene, Gripon, ThriftyNets, 2020, https://arxiv.org/abs/2007.10106
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from thrifty.nets.architecture import net
from thrifty.nets.histories import carried_sum, fusible
from thrifty.nets.limits import initialise
from thrifty.nets.resizing import Narrowable
from thrifty.nets.resnet import Block
from thrifty.nets.thrifty_options import ACTIVATIONS, Options, stem_sizes

if TYPE_CHECKING:
    from typing_extensions import Self

FIRST, CARRIED = 0.1, 0.9
"""Coefficients of a new network: of the convolution, and of the one output that is carried on."""
PARTS = 4
"""Of a batch, that are convolved one after the other with checkpointing, on a CPU."""


class ThriftyNet(Narrowable):
    """``iterations`` of one convolution over a stream of ``filters`` channels, and a linear layer.

    With ``checkpointing``, training keeps the outputs of iterations and computes what lies
    between them again for the gradients: less than half the memory for a third more time.

    Args:
        filters: channels of the stream.
        classes: outputs.
        iterations: how often the convolution is used.
        pools: iterations after which the stream and its history are halved.
        history: how many outputs, the newest first, an iteration reads beside its convolution.
        mode: of the convolution; ``classic`` 3x3, or ``mb1``, ``mb2``, ``mb4``: 3x3 in groups of
            1, 2 or 4 channels, then 1x1.
        act: after the convolution.
        stem: before the stream; makes no more than ``filters`` channels, nor does an input have
            more if there is none.
    """

    follows: ClassVar[Mapping[str, tuple[str, int]]] = {"kept": ("norms.0.weight", 0)}

    def __init__(
        self,
        filters: int,
        classes: int,
        iterations: int,
        pools: Sequence[int],
        history: int,
        mode: str,
        act: nn.Module,
        stem: nn.Module | None = None,
    ):
        super().__init__()
        self.filters, self.iterations, self.history = filters, iterations, history
        self.pools = frozenset(pools)
        self.checkpointing = False
        self.stem = stem
        self.conv = convolution(filters, mode)
        self.act = act
        self.norms = nn.ModuleList(nn.BatchNorm2d(filters) for _ in range(iterations))
        self.alpha = nn.Parameter(torch.zeros(iterations, history + 1))
        self.linear = nn.Linear(filters, classes)
        self.kept: Tensor
        self.links: Tensor
        self.register_buffer("kept", torch.arange(filters))
        self.register_buffer("links", torch.ones(iterations, history + 1, dtype=torch.bool))
        self._links = [[True] * (history + 1) for _ in range(iterations)]
        self._seen: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> logits, (batch, classes)."""
        if not torch.compiler.is_compiling():
            self.read_links()
        x = x if self.stem is None else self.stem(x)
        again = self._again()
        # Zeros take memory as long as the history holds them; computed again, they need not.
        past = [x if again else self._stream(x)]
        for t in range(self.iterations):
            new, *past = (
                _again(self._iteration, t, t < self.history, *past, frozen=self.norms[t])
                if again
                else self._iteration(t, False, *past)
            )
            past = past[: self.history - 1]
            if t in self.pools:
                past = [_again(F.max_pool2d, p, 2) if again else F.max_pool2d(p, 2) for p in past]
            past = [new, *past]
        return self.linear(past[0].amax((2, 3)))  # type: ignore[no-any-return]

    def _stream(self, x: Tensor) -> Tensor:
        """An input as the stream takes it: filled up with zeros, without the channels removed."""
        x = F.pad(x, (0, 0, 0, 0, 0, self.filters - x.shape[1]))
        if self.followed or len(self.kept) != self.filters:
            x = x.index_select(1, self.kept)
        return x

    def _iteration(self, t: int, bare: bool, *past: Tensor) -> tuple[Tensor, ...]:
        """What iteration ``t`` makes of the outputs before it, the newest first, and those outputs.

        Args:
            bare: whether the oldest is an input as it came, which is no stream yet.
        """
        streams = [*past[:-1], self._stream(past[-1])] if bare else list(past)
        links = [i for i, there in enumerate(self._links[t][: 1 + len(past)]) if there]
        terms = [streams[i - 1] if i else self._activated(streams[0]) for i in links]
        if self.training and terms and fusible(self.alpha, terms):
            every = len(links) == 1 + links[-1]
            row = self.alpha[t]
            weights = row[: len(links)] if every else torch.cat([row[i : i + 1] for i in links])
            total, *terms = carried_sum(weights, *terms)
            for i, x in zip(links, terms, strict=True):
                if i and not (bare and i == len(past)):
                    past = (*past[: i - 1], x, *past[i:])
        else:
            total = self._sum(t, links, terms) if terms else torch.zeros_like(streams[0])
        total = self.norms[t](total)
        return F.max_pool2d(total, 2) if t in self.pools else total, *past

    def _activated(self, x: Tensor) -> Tensor:
        """What the convolution and the activation make of the newest output."""
        if not self._again() or x.is_cuda:
            return self.act(self.conv(x))  # type: ignore[no-any-return]
        # The workspace of a convolution's gradient is as large as three of its inputs.
        parts = x.chunk(PARTS)
        return torch.cat([_again(lambda part: self.act(self.conv(part)), part) for part in parts])

    def _again(self) -> bool:
        """Whether what lies between outputs is computed again."""
        return self.checkpointing and self.training and torch.is_grad_enabled()

    def _sum(self, t: int, links: Sequence[int], terms: Sequence[Tensor]) -> Tensor:
        total = self.alpha[t, links[0]] * terms[0]
        for i, x in zip(links[1:], terms[1:], strict=True):
            total = total + self.alpha[t, i] * x
        return total

    def read_links(self) -> None:
        """In place: ask ``links`` which coefficients are there, if it may have changed.

        On the device meta, and within torch.export, torch.compile and torch.vmap, a buffer
        cannot be asked: then what was read before holds.
        """
        if type(self.links) is not Tensor or self.links.is_meta:
            return
        version = -1 if self.links.is_inference() else self.links._version
        if version < 0 or self._seen != (id(self.links), version):
            try:
                self._links = self.links.tolist()
            except RuntimeError:  # a wrapper of torch.vmap
                return
            self._seen = (id(self.links), version)

    def __getstate__(self) -> dict[str, Any]:
        """The state of a copy, which may be one on the device meta: it cannot ask any more."""
        self.read_links()
        return {**vars(self), "_seen": None}

    def train(self, mode: bool = True) -> "Self":
        """In place: training or evaluation; what traces the network next cannot ask ``links``."""
        self.read_links()
        return super().train(mode)

    def settle(self) -> None:
        """In place: a stream of all its channels has them in their order."""
        self._seen = None
        self.read_links()
        if len(self.norms[0].weight) == self.filters:  # type: ignore[arg-type]
            self.kept = torch.arange(self.filters, device=self.kept.device)

    def fault(self, tensors: Mapping[str, Tensor]) -> str | None:
        """What is wrong with tensors from a file for this network, by their names in it."""
        for name in ("alpha", "links"):
            own, x = getattr(self, name).shape, tensors.get(name)
            if x is not None and x.shape != own:
                return f"{name} has the shape {list(x.shape)}, and {list(own)} is all it can have"
        kept = tensors.get("kept")
        if kept is None:
            return None
        norm = tensors.get("norms.0.weight")
        left = len(self.kept) if norm is None else len(norm)
        if kept.dim() != 1 or len(kept) != left:
            return f"kept has the shape {list(kept.shape)} and the stream {left} channels"
        if bool((kept < 0).any()) or bool((kept >= self.filters).any()):
            return f"kept names channels outside of 0..{self.filters - 1}, which are all there are"
        if bool((kept.diff() <= 0).any()):
            return "kept names channels twice, or not in rising order"
        return None


def _again(fn: Callable[..., Any], *args: Any, frozen: nn.Module | None = None) -> Any:
    """``fn(*args)``, computed again for the gradients; ``frozen`` learns from the first time."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _unmoved(frozen)

    # Nothing in here is random, and a generator's state takes longer to keep than an iteration.
    return checkpoint(fn, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


@contextmanager
def _unmoved(norm: nn.Module | None) -> Iterator[None]:
    """Inside, what a batch norm learns about its inputs goes into copies that are thrown away."""
    own = dict(norm._buffers) if norm is not None else {}
    try:
        for name, x in own.items():
            norm._buffers[name] = None if x is None else x.clone()  # type: ignore[union-attr]
        yield
    finally:
        if norm is not None:
            norm._buffers.update(own)


def convolution(filters: int, mode: str) -> nn.Module:
    """The convolution that all iterations share, ``filters`` to ``filters`` channels, no bias."""
    if mode == "classic":
        return nn.Conv2d(filters, filters, 3, padding=1, bias=False)
    middle = filters // int(mode[2:])
    return nn.Sequential(
        nn.Conv2d(filters, middle, 3, padding=1, groups=middle, bias=False),
        nn.Conv2d(middle, filters, 1, bias=False),
    )


def residual_stem(channels: int, sizes: tuple[int, int]) -> nn.Module:
    """What ResNets for large images begin with, up to their second stage: sides through 8."""
    one, two = sizes
    return nn.Sequential(
        nn.Conv2d(channels, one, 7, 2, 3, bias=False),
        nn.BatchNorm2d(one),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        Block(one, one, 1, "projection"),
        Block(one, two, 2, "projection"),
    )


@net("thriftynet")
def thriftynet(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = (3, 32, 32),
    width: float = 1.0,
    filters: int | None = None,
    budget: str | int | None = None,
    iterations: int = 30,
    pool_every: int | str | None = None,
    history: int = 5,
    mode: str = "mb1",
    act: str = "tanh",
    start: str = "newest",
    stem: str = "none",
) -> nn.Module:
    """One convolution used again and again (Coiffier et al., 2020): 39,636 parameters.

    Args:
        classes: outputs.
        shape: of one image, (channels, height, width).
        width: times the filters, and the channels of a stem.
        filters: channels of the stream; 163 if there is no budget.
        budget: of parameters, such as 40k; the network has as many filters as it pays for.
        iterations: how often the convolution is used.
        pool_every: so many iterations the stream is halved, or a list of iterations, counted from
            0, after which it is: 4,9,14.  0 is never; evenly, down to one pixel, if not given.
        history: how many outputs before it an iteration adds to that of its convolution.
        mode: of the convolution: classic (3x3), or mb1, mb2, mb4 (3x3 in groups of 1, 2 or 4
            channels, then 1x1).
        act: after the convolution: tanh, relu, hardtanh, gelu, silu, leaky_relu, ...
        start: the output that a new network carries on, the newest or the oldest of its history,
            which the published code does.
        stem: none, or resnet: a 7x7 convolution and two residual blocks, for large images.

    References:
        Coiffier, Boukli Hacene, Gripon, ThriftyNets, 2020, https://arxiv.org/abs/2007.10106
    """
    said = Options(
        classes,
        shape,
        width,
        filters,
        budget,
        iterations,
        pool_every,
        history,
        mode,
        act,
        start,
        stem,
    )
    channels = said.shape[0]
    model = ThriftyNet(
        said.wide,
        classes,
        iterations,
        said.pools,
        history,
        mode,
        ACTIVATIONS[act](),
        residual_stem(channels, stem_sizes(width)) if stem == "resnet" else None,
    )
    initialise(model)
    with torch.no_grad():
        model.alpha[:, 0] = FIRST
        model.alpha[:, 1 if start == "newest" else -1] = CARRIED
    return model

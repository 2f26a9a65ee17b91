"""What a ThriftyNet may be asked for: its options checked, and the sizes that follow from them."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from thrifty.errors import UserError
from thrifty.nets.budget import (
    MODES,
    MOST_FILTERS,
    STEM,
    amount,
    filters_within,
    stem_parameters,
)
from thrifty.nets.limits import check, image, scaled
from thrifty.registry import suggest

NAME = "thriftynet"
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "hardswish": nn.Hardswish,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "sigmoid": nn.Sigmoid,
}
STARTS = ("newest", "oldest")
STEMS = ("none", "resnet")
FILTERS, MOST_ITERATIONS = 163, 1000


@dataclass(frozen=True)
class Options:
    """The arguments of the network, all mistakes said at once.

    Raises:
        UserError: an option is none that there is, or two do not go together.
    """

    classes: int
    shape: tuple[int, ...]
    width: float
    filters: int | None
    budget: str | int | None
    iterations: int
    pool_every: int | str | None
    history: int
    mode: str
    act: str
    start: str
    stem: str

    def __post_init__(self) -> None:
        check(NAME, self.classes, self.width)
        image(NAME, self.shape, least=4)
        wrong = [*self._unknown(), *self._numbers()]
        if not wrong:
            wrong = [*self._pooling(), *self._width()]
        if wrong:
            raise UserError(f"{NAME} has " + "; and ".join(wrong))

    def _unknown(self) -> Iterator[str]:
        """Names that are none."""
        known: dict[str, Collection[str]] = {
            "mode": MODES,
            "act": ACTIVATIONS,
            "start": STARTS,
            "stem": STEMS,
        }
        for option, names in known.items():
            value = getattr(self, option)
            if value not in names:
                yield f"{option}={value!r}, and no such {option}: {suggest(str(value), names)}"

    def _numbers(self) -> Iterator[str]:
        """Numbers that are none, or out of bounds."""
        bounds = {"iterations": MOST_ITERATIONS, "history": MOST_ITERATIONS}
        if self.filters is not None:
            bounds["filters"] = MOST_FILTERS
        for option, most in bounds.items():
            value = getattr(self, option)
            if not _whole(value) or not 1 <= value <= most:
                yield f"{option}={value!r}, and it is a whole number from 1 to {most:,}"
        if _whole(self.history) and _whole(self.iterations) and self.history > self.iterations >= 1:
            yield (
                f"history={self.history} and iterations={self.iterations}: an iteration cannot "
                f"read more outputs than there are; give a history of at most {self.iterations}"
            )
        if self.budget is not None and self.filters is not None:
            yield (
                f"filters={self.filters} and budget={self.budget}: a budget decides the number of "
                f"filters; give one of the two"
            )
        if self.budget is not None and self.width != 1:
            yield (
                f"width={self.width:g} and budget={self.budget}: a width would leave the budget; "
                f"give one of the two"
            )

    def _pooling(self) -> Iterator[str]:
        """Iterations that are none, and images that pooling leaves nothing of."""
        try:
            pools = self.pools
        except ValueError:
            yield (
                f"pool_every={self.pool_every!r}; give a number of iterations, such as 6, or a "
                f"list of them from 0 to {self.iterations - 1} in rising order, such as 4,9,14"
            )
            return
        least = min(self._sides)
        if least >> len(pools) < 1:
            fits = least.bit_length() - 1
            said = "" if self.pool_every is None else f"pool_every={self.pool_every}: "
            behind = f", {'x'.join(map(str, self._sides))} behind the stem" if self._stem else ""
            yield (
                f"{said}{len(pools)} poolings of an image of {'x'.join(map(str, self.shape[1:]))}"
                f"{behind}, of which {fits} leave {least >> fits} pixel a side and the next one "
                f"nothing; pool at most {fits} times in {self.iterations} iterations"
            )

    def _width(self) -> Iterator[str]:
        """Filters that do not take the input, or make no groups."""
        channels, step, given = self._channels, MODES[self.mode], self.filters
        if given is not None and given % step:
            near = max(step, given // step * step)
            yield (
                f"filters={given} and mode={self.mode}: {step} does not divide them; give "
                f"{near} or {near + step}"
            )
        elif self.wide < channels:
            yield (
                f"{self.wide} filters and {'a stem' if self._stem else 'an input'} of {channels} "
                f"channels, which the stream must hold; give {-(-channels // step) * step} or more"
            )

    @cached_property
    def wide(self) -> int:
        """Channels of the stream."""
        step = MODES[self.mode]
        if self.budget is None:
            return step * max(1, round((self.filters or FILTERS) * self.width / step))
        stem = stem_parameters(self.shape[0], stem_sizes(self.width)) if self._stem else 0
        return filters_within(
            amount(self.budget),
            self.iterations,
            self.history,
            self.classes,
            self.mode,
            stem,
            self._channels,
        )

    @cached_property
    def pools(self) -> tuple[int, ...]:
        """Iterations after which the stream is halved."""
        every = self.pool_every
        if every is None:
            times = min(min(self._sides).bit_length() - 1, self.iterations)
            return tuple(-(-k * self.iterations // times) - 1 for k in range(1, times + 1))
        if _whole(every):
            if int(every) < 0:
                raise ValueError(every)
            return tuple(range(int(every) - 1, self.iterations, int(every))) if every else ()
        places = tuple(int(n) for n in str(every).split(",") if n.strip())
        rising = all(one < two for one, two in zip(places, places[1:], strict=False))
        if not rising or not all(0 <= n < self.iterations for n in places):
            raise ValueError(every)
        return places

    @property
    def _stem(self) -> bool:
        return self.stem == "resnet"

    @property
    def _channels(self) -> int:
        """Channels that come into the stream."""
        return stem_sizes(self.width)[1] if self._stem else self.shape[0]

    @property
    def _sides(self) -> tuple[int, int]:
        """Height and width of what comes into the stream."""
        _, height, width = self.shape
        if not self._stem:
            return height, width
        for _ in range(3):  # halvings that round up: the convolution, the pooling, a block
            height, width = -(-height // 2), -(-width // 2)
        return height, width


def stem_sizes(width: float) -> tuple[int, int]:
    """Channels of the blocks of a stem."""
    return scaled(STEM[0], width), scaled(STEM[1], width)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

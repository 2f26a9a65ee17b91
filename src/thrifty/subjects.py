"""What a command works on: a network as a person names it, and inputs as it takes them."""

import math
import re
from typing import TYPE_CHECKING

from thrifty.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

MOST = 1 << 27
"""Numbers of an example."""


def subject(
    model: str, data: str | None, shape: str | None, weights: str | None, batch: int = 2
) -> tuple["nn.Module", "Tensor"]:
    """The network, and ``batch`` inputs, (batch, *shape).

    Args:
        model: a network, as for ``thrifty prune``, or a file of any format that is read back.
        data: a data set, whose test inputs serve, from the first again where it has fewer.
        shape: or the shape of one input, ``3x32x32``; inputs are then drawn at random.
        weights: a file that fills the network.
        batch: how many.

    Raises:
        UserError: there is no such network or data, or nothing says what an input is.
    """
    import torch

    from thrifty.nets import architecture_of

    if data is not None and shape is not None:
        raise UserError("--data and --shape both say what an input is; give one of them")
    if data is not None:
        from thrifty.data import load_data

        loaded = load_data(data)
        net = network(model, weights, loaded.classes, loaded.shape)
        _check_numbers(batch, loaded.shape)
        chosen = torch.arange(batch) % len(loaded.test)
        return net, loaded.prepare(loaded.test.inputs[chosen])
    size = None if shape is None else size_of(shape)
    net = network(model, weights, None, size)
    known = architecture_of(net)
    size = size or (known.shape if known is not None else None)
    if size is None:
        raise UserError(
            f"{model} does not say what an input is; say --shape, such as --shape 3x224x224, or "
            f"--data"
        )
    _check_numbers(batch, size)
    generator = torch.Generator().manual_seed(0)
    return net, torch.randn(batch, *size, generator=generator)


def network(
    model: str,
    weights: str | None,
    classes: int | None = None,
    shape: tuple[int, ...] | None = None,
) -> "nn.Module":
    """The network that ``model`` names, also a file of any format that is read back."""
    from thrifty.nets import file_of, load_weights, resolve
    from thrifty.pack import FORMATS, load

    file = file_of(model)
    suffixes = tuple(f.suffix for n in FORMATS.names() if (f := FORMATS.get(n)).suffix and f.read)
    if file is None or not file.name.lower().endswith(suffixes):
        return resolve(model, weights=weights, classes=classes, shape=shape)
    net = load(file)
    if weights is not None:
        load_weights(net, weights)
    return net


def _check_numbers(batch: int, size: tuple[int, ...]) -> None:
    if batch * math.prod(size) > MOST:
        shown = "x".join(map(str, size))
        raise UserError(
            f"{batch} inputs of {shown} are {batch * math.prod(size):,} numbers, more than the "
            f"{MOST:,} that an example may have; take fewer or smaller ones"
        )


def size_of(text: str) -> tuple[int, ...]:
    """The shape that ``3x32x32`` says.

    Raises:
        UserError: it says none, or one of too many numbers.

    Example:
        >>> size_of("3x32x32")
        (3, 32, 32)
    """
    size = tuple(map(int, text.split("x"))) if re.fullmatch(r"\d{1,9}(x\d{1,9})*", text) else ()
    if not size or not 0 < math.prod(size) <= MOST // 2:
        raise UserError(
            f"--shape is {text!r}; it is the shape of one input, without the batch, such as 3x32x32"
        )
    return size

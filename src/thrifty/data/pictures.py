"""Decode pictures into one uint8 tensor, and resize it.

Needs Pillow (extra ``data``).  One thread: Pillow decodes 60,000 CIFAR pictures in about 5 s
on one core, and handing so small pictures to threads made it slower (1.2 s against 0.9 s per
10,000).
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from thrifty.data.sets import Split
from thrifty.errors import MissingExtra, UserError

LARGEST = 8 * 2**30  # bytes of one data set in memory
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
RED, GREEN, BLUE = 19595, 38470, 7471  # of 65,536: 0.299, 0.587 and 0.114
CIFAR = (3, 32, 32)  # for pictures of this shape crops by 4 pixels and mirroring are customary


class Stack:
    """Pictures of one split, (rows, channels, height, width), allocated when the first is seen.

    Grey pictures become colour pictures as soon as one colour picture comes, unless
    ``channels`` says what they are to be.

    Args:
        rows: how many pictures there will be.
        size: side to which each is resized; the proportions of the sides are not kept.
        channels: 1 for grey, 3 for colour, None to follow the files.
    """

    def __init__(self, rows: int, size: int | None = None, channels: int | None = None):
        try:
            import PIL.Image
        except ImportError:
            raise MissingExtra("data", "pillow", "reading pictures") from None
        if channels not in (None, 1, 3):
            raise UserError(f"channels is {channels}; pictures are read with 1 (grey) or 3 (RGB)")
        self._open, self._from_array = PIL.Image.open, PIL.Image.fromarray
        self._bilinear = PIL.Image.Resampling.BILINEAR
        self._bomb = PIL.Image.DecompressionBombWarning
        self.rows, self.size, self.channels = rows, size, channels
        self.filled = 0
        self.held: NDArray[np.uint8] | None = None

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Pillow's remarks on odd files are nobody's business, but a huge picture is an error."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", self._bomb)
            yield

    def add(self, content: bytes | Path, where: str) -> None:
        """Decode the next picture; ``where`` names it in errors."""
        try:
            pixels = self._pixels(io.BytesIO(content) if isinstance(content, bytes) else content)
        except Exception as error:  # Pillow's plugins raise every kind, even SyntaxError
            raise UserError(
                f"{where}: the picture cannot be decoded ({error}); replace it or take it out"
            ) from error
        held = self.held
        if held is None:
            held = self.held = self._allocated(pixels.shape, where)
        if pixels.shape[1:] != held.shape[2:]:
            height, width = pixels.shape[1:]
            raise UserError(
                f"{where}: the picture is {width} x {height} pixels, those before it are "
                f"{held.shape[3]} x {held.shape[2]}; give size=N to resize all of them to N x N"
            )
        if pixels.shape[0] > held.shape[1]:
            colour = self._allocated((pixels.shape[0], *held.shape[2:]), where)
            colour[: self.filled] = held[: self.filled]
            held = self.held = colour
        held[self.filled] = pixels
        self.filled += 1

    def tensor(self) -> Tensor:
        """What was added, as a tensor."""
        if self.held is None:
            return torch.empty((0, 1, 1, 1), dtype=torch.uint8)
        return torch.from_numpy(self.held[: self.filled])

    def _allocated(self, shape: tuple[int, ...], where: str) -> NDArray[np.uint8]:
        size = self.rows * int(np.prod(shape))
        if size > LARGEST:
            raise UserError(
                f"{where}: {self.rows:,} pictures of {shape[2]} x {shape[1]} pixels are "
                f"{size / 2**30:.1f} GiB, more than the {LARGEST >> 30} GiB held in memory; "
                f"give size=N to make them smaller"
            )
        return np.empty((self.rows, *shape), dtype=np.uint8)

    def _pixels(self, source: Any) -> NDArray[np.uint8]:
        with self._open(source) as image:
            mode = image.mode
            if mode == "F":
                raise ValueError("its pixels are floating numbers, not 8 or 16 bits")
            if mode.startswith("I"):  # 16 bits a pixel: keep the upper 8
                deep = np.asarray(image).astype(np.int64) >> 8
                image = self._from_array(deep.clip(0, 255).astype(np.uint8))
            wanted = self.channels or (1 if mode in GREY else 3)
            image = image.convert("L" if wanted == 1 else "RGB")
            if self.size:
                image = image.resize((self.size, self.size), self._bilinear)
            pixels: NDArray[np.uint8] = np.asarray(image)
        return pixels[None] if wanted == 1 else pixels.transpose(2, 0, 1)


def same_channels(train: Split, test: Split) -> tuple[Split, Split]:
    """If only one of the two has colour, give the other three equal channels."""
    most = max(train.inputs.shape[1], test.inputs.shape[1])
    return _spread(train, most), _spread(test, most)


def grey(inputs: Tensor) -> Tensor:
    """Pictures (n, channels, height, width) with one channel, as ITU-R 601 weighs red, green, blue.

    Bytes are rounded as Pillow and torchvision round them, so that the result is theirs.
    """
    if inputs.dim() != 4 or inputs.shape[1] not in (1, 3):
        raise UserError(
            f"grey=true is for pictures of 1 or 3 channels, and these inputs are "
            f"{tuple(inputs.shape)}; leave grey out"
        )
    if inputs.shape[1] == 1:
        return inputs
    whole = inputs.new_empty((len(inputs), 1, *inputs.shape[2:]))
    for start in range(0, len(inputs), 1024):
        part = inputs[start : start + 1024]
        if inputs.dtype == torch.uint8:
            red, green, blue = part.int().unbind(1)
            one = (RED * red + GREEN * green + BLUE * blue + (1 << 15)) >> 16
        else:
            red, green, blue = part.unbind(1)
            one = (RED * red + GREEN * green + BLUE * blue) / (1 << 16)
        whole[start : start + 1024, 0] = one
    return whole


def resized(inputs: Tensor, size: int) -> Tensor:
    """Pictures (n, channels, height, width) at size x size, bilinear with antialiasing."""
    if inputs.dim() != 4:
        raise UserError(
            f"size={size} resizes pictures, and these inputs are {tuple(inputs.shape)}; "
            f"leave size out"
        )
    if inputs.shape[2:] == (size, size) or not inputs.numel():
        return inputs
    whole = inputs.new_empty((*inputs.shape[:2], size, size))
    for start in range(0, len(inputs), 1024):
        part = inputs[start : start + 1024].float()
        small = interpolate(part, (size, size), mode="bilinear", antialias=True)
        if inputs.dtype == torch.uint8:
            small = small.round().clamp(0, 255)
        whole[start : start + 1024] = small
    return whole


def cropped(inputs: Tensor, side: int) -> Tensor:
    """The side x side pixels in the middle of pictures (n, channels, height, width).

    Of an odd rest the smaller half goes above and to the left, as torchvision rounds it.
    """
    height, width = inputs.shape[2:] if inputs.dim() == 4 else (0, 0)
    if min(height, width) < side:
        what = f"pictures of {width} x {height}" if height else f"inputs of {inputs.shape[1:]}"
        raise UserError(
            f"crop={side} asks for {side} x {side} pixels, and these are {what}; leave crop out, "
            f"or make pictures larger with size=N"
        )
    top, left = round((height - side) / 2), round((width - side) / 2)
    return inputs[:, :, top : top + side, left : left + side].contiguous()


def _spread(split: Split, channels: int) -> Split:
    if split.inputs.shape[1] == channels or not len(split):
        return split
    return Split(split.inputs.expand(-1, channels, -1, -1).contiguous(), split.labels)

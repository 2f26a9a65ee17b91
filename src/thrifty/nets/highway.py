"""Highway network for small images: every block mixes what it computes with what it was given.

A block computes H = relu(conv(bn(x))) and T = sigmoid(conv(H)), and returns T * H + (1 - T) * s,
where s carries x on: as it is or, where a stage begins, averaged over 2x2 pixels and with zeros
for the channels that are new.  The carry path has no weights, so a channel of H may go whenever
its T is small, and channel by channel the block becomes the identity.  T reads H and not x, so
that its filters lose rows and columns with every channel of H: a quarter of the channels leaves
about a seventh of the weights.

``kept`` says which channels of the stream a block still writes.  It is a buffer and not a
number in code, for a file must tell it; channels are put back into the stream in place of those
that the carry path has there, so that the stream keeps its width and blocks know nothing of one
another.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.nets.architecture import net
from thrifty.nets.limits import check, image, initialise, scaled
from thrifty.nets.resizing import Narrowable

STEM, CHANNELS, WIDTH = 16, (64, 128, 256), 4
"""Channels of the stem and, at this width, of the three stages."""


class HighwayBlock(Narrowable):
    """T * H + (1 - T) * s(x), with T fed by H; of H some channels may be gone, or all.

    Without any channel of H left, the block is its carry path.
    """

    may_be_empty = ("h.weight", "h.bias", "t.weight", "t.bias", "kept")
    follows: ClassVar[Mapping[str, tuple[str, int]]] = {"kept": ("h.weight", 0)}

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.h = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.t = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.gate = nn.Sigmoid()
        self.stride, self.new = stride, outputs - inputs
        self.kept: Tensor
        self.register_buffer("kept", torch.arange(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) -> (batch, outputs, height / stride, width / stride)."""
        s = self.carried(x)
        if len(self.kept) == 0:
            return s
        h = F.relu(self.h(self.bn(x)))
        t: Tensor = self.gate(self.t(h))
        if len(self.kept) == s.shape[1]:
            return t * h + (1 - t) * s
        z = t * h + (1 - t) * s.index_select(1, self.kept)
        return s.index_copy(1, self.kept, z.to(s.dtype))

    def carried(self, x: Tensor) -> Tensor:
        """What goes past the gate: averaged and filled with zeros where the shape changes."""
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        if self.new < 0:
            return x[:, : self.new]
        return F.pad(x, (0, 0, 0, 0, 0, self.new)) if self.new else x

    def settle(self) -> None:
        """In place: a block that makes all channels of its stream writes them in their order."""
        made = self.h.weight.shape[0]
        if made == self.bn.num_features + self.new:
            self.kept = torch.arange(made, device=self.kept.device)

    def fault(self, tensors: Mapping[str, Tensor]) -> str | None:
        """What is wrong with tensors from a file for this block, by their names in it.

        The whole block has as many channels of H as its stream; sizes are looked at elsewhere.
        """
        kept = tensors.get("kept")
        if kept is None:
            return None
        made = tensors.get("h.weight", self.h.weight).shape[0]
        if kept.dim() != 1 or len(kept) != made:
            return f"kept has the shape {list(kept.shape)} and h makes {made} channels"
        stream = tensors.get("bn.weight", self.bn.weight).shape[0] + self.new
        if bool((kept < 0).any()) or bool((kept >= stream).any()):
            return f"kept names channels outside of 0..{stream - 1}, which are all there are"
        if bool((kept.diff() <= 0).any()):
            return "kept names channels twice, or not in rising order"
        return None


class Highway(nn.Module):
    """A 3x3 stem, three stages of highway blocks that each halve the image, the mean, a layer."""

    def __init__(self, blocks: int, classes: int, channels: int, width: float):
        super().__init__()
        sizes = [scaled(c, width / WIDTH) for c in CHANNELS]
        inputs = min(STEM, sizes[0])
        self.stem = nn.Conv2d(channels, inputs, 3, 1, 1, bias=False)
        layers = []
        for outputs in sizes:
            for block in range(blocks):
                layers.append(HighwayBlock(inputs, outputs, 2 if block == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (batch, classes)."""
        x = self.blocks(self.stem(x))
        return self.linear(self.pool(x).flatten(1))  # type: ignore[no-any-return]


@net("highway")
def highway(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = (3, 32, 32),
    width: float = WIDTH,
    blocks: int = 6,
    bias: float = -1.0,
) -> nn.Module:
    """Highway network of three stages for small images, its gates fed by what they gate.

    Args:
        classes: outputs.
        shape: of one image, (channels, height, width); each stage halves it, rounding up.
        width: times 16, 32 and 64 channels; the stem has 16, or fewer if the first stage has.
        blocks: of each stage.
        bias: where the biases of the gates begin; below 0 they begin nearly shut.

    References:
        Srivastava et al., Training Very Deep Networks, 2015, https://arxiv.org/abs/1507.06228
        (gates and their bias; there T reads x)
    """
    check("highway", classes, width)
    channels, _, _ = image("highway", shape, least=4)
    if isinstance(blocks, bool) or not isinstance(blocks, int) or not 1 <= blocks <= 1000:
        raise UserError(
            f"highway has blocks={blocks!r}; give the number of blocks of a stage, 1 to 1000"
        )
    if isinstance(bias, bool) or not isinstance(bias, int | float) or not abs(bias) <= 100:
        raise UserError(
            f"highway has bias={bias!r}; the bias of a gate begins between -100 and 100, -1 is "
            f"usual"
        )
    model = Highway(blocks, classes, channels, width)
    initialise(model)
    for block in model.blocks:
        assert isinstance(block, HighwayBlock) and block.t.bias is not None
        nn.init.constant_(block.t.bias, bias)
    return model

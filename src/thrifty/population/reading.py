"""Which layers a network is made of, as the lanes know them; or why they do not know them."""

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from thrifty.native.lanes import Layer

ACTS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.GELU: "gelu",
    nn.LeakyReLU: "leaky_relu",
    nn.SiLU: "silu",
}


class Unfit(Exception):
    """A network that the lanes cannot run, and why."""


def layers_of(model: nn.Module, shape: tuple[int, ...]) -> tuple[Layer, ...]:
    """The layers of a plain chain of convolutions, poolings, activations and linear layers.

    Args:
        shape: of one input, (channels, height, width) or (features,).

    Raises:
        Unfit: it is no such chain.
    """
    if not isinstance(model, nn.Sequential):
        raise Unfit(f"{type(model).__name__} is no plain chain of layers (nn.Sequential)")
    made: list[Layer] = []
    picture: tuple[int, ...] | None = shape if len(shape) == 3 else None
    numbers = 1
    for side in shape:
        numbers *= side
    for name, module in _chain(model):
        if isinstance(module, nn.Conv2d):
            if picture is None:
                raise Unfit(f"{name} is a convolution and is given no picture")
            made.append(_convolution(name, module, picture))
        elif isinstance(module, nn.Linear):
            if module.in_features != numbers:
                raise Unfit(f"{name} takes {module.in_features} numbers and is given {numbers}")
            outputs, bias = module.out_features, module.bias is not None
            made.append(Layer(conv=False, inputs=numbers, outputs=outputs, bias=bias))
        elif isinstance(module, nn.Flatten | nn.Identity):
            if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) != (1, -1):
                raise Unfit(f"{name} flattens part of the dimensions")
            continue
        elif not made:
            raise Unfit(f"{name} ({type(module).__name__}) comes before the first layer")
        else:
            made[-1] = _followed(made[-1], name, module)
        picture, numbers = _result(made[-1])
    if not made:
        raise Unfit("it has no layer")
    return tuple(made)


def _chain(model: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_children():
        if type(module) is nn.Sequential:
            yield from _chain(module, f"{prefix}{name}.")
        else:
            yield prefix + name, module


def _convolution(name: str, module: nn.Conv2d, picture: tuple[int, ...]) -> Layer:
    (kernel, other), (stride, also) = module.kernel_size, module.stride
    padding = module.padding
    plain = (
        kernel == other
        and stride == also
        and module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and isinstance(padding, tuple)
        and padding[0] == padding[1]
    )
    if not plain or isinstance(padding, str):
        raise Unfit(f"{name} has no square kernel, or groups, dilation or another padding")
    channels, height, width = picture
    if channels != module.in_channels:
        raise Unfit(f"{name} takes {module.in_channels} channels and is given {channels}")
    return Layer(
        conv=True,
        inputs=channels,
        outputs=module.out_channels,
        height=height,
        width=width,
        kernel=kernel,
        stride=stride,
        padding=int(padding[0]),
        bias=module.bias is not None,
    )


def _followed(layer: Layer, name: str, module: nn.Module) -> Layer:
    if layer.dropout:
        raise Unfit(f"{name} comes after dropout")
    if isinstance(module, nn.MaxPool2d):
        sizes = {_pair(module.kernel_size), _pair(module.stride)}
        whole = (
            module.dilation in (1, (1, 1)) and not module.ceil_mode and not module.return_indices
        )
        if any(a != b for a, b in sizes) or module.padding not in (0, (0, 0)) or not whole:
            raise Unfit(f"{name} is no square pooling without padding")
        if not layer.conv or layer.pool > 1:
            raise Unfit(f"{name} pools what is no convolution, or is pooled already")
        size, stride = _pair(module.kernel_size)[0], _pair(module.stride)[0]
        return replace(layer, pool=size, pool_stride=stride, pool_first=layer.act == "none")
    act = ACTS.get(type(module))
    if act is not None:
        odd = (isinstance(module, nn.GELU) and module.approximate != "none") or (
            isinstance(module, nn.LeakyReLU) and module.negative_slope != 0.01
        )
        if layer.act != "none" or odd:
            raise Unfit(f"{name} is a second activation, or one of other numbers than torch's own")
        return replace(layer, act=act)
    if type(module) is nn.Dropout:
        return replace(layer, dropout=True)
    raise Unfit(f"{name} is a {type(module).__name__}, which the lanes do not know")


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _result(layer: Layer) -> tuple[tuple[int, ...] | None, int]:
    """Shape of the picture that comes out, if it is one, and how many numbers."""
    if not layer.conv:
        return None, layer.outputs

    def side(n: int) -> int:
        out = (n + 2 * layer.padding - layer.kernel) // layer.stride + 1
        return (out - layer.pool) // layer.pool_stride + 1 if layer.pool > 1 else out

    height, width = side(layer.height), side(layer.width)
    return (layer.outputs, height, width), layer.outputs * height * width

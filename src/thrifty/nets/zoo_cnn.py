"""The small networks of the published model zoos: two or three thousand parameters each.

Pooling comes before the activation, biases begin at 0.01, and ``init`` says how weights begin;
``uniform`` means the published one, from 0 to 1.  For images with sides under 20 the kernels of
the first two convolutions are 3 wide and padded, so that something is left of them.

References:
    Schuerholt et al., Model Zoos: A Dataset of Diverse Populations of Neural Network Models, 2022,
    https://arxiv.org/abs/2209.14764
"""

import functools
from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from thrifty.errors import UserError
from thrifty.nets.architecture import NETS
from thrifty.nets.limits import check, image, scaled
from thrifty.registry import suggest

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
}
INITS: dict[str, Callable[..., object]] = {
    "uniform": nn.init.uniform_,
    "normal": nn.init.normal_,
    "kaiming_uniform": nn.init.kaiming_uniform_,
    "kaiming_normal": nn.init.kaiming_normal_,
}

Plan = tuple[tuple[int, int], ...]


def zoo_cnn(
    name: str,
    plan: Plan,
    pools: int,
    *,
    classes: int = 10,
    shape: tuple[int, ...] = (1, 28, 28),
    width: float = 1.0,
    act: str = "tanh",
    dropout: float = 0.0,
    init: str = "kaiming_uniform",
) -> nn.Module:
    """Convolutions as ``plan`` says (channels, side of the kernel), then 20 units and the classes.

    Args:
        name: of the network, for messages.
        plan: of the convolutions; the first ``pools`` of them are halved by pooling.
        act: one of ``ACTIVATIONS``.
        dropout: share of what is dropped after each pooled convolution and the hidden units.
        init: one of ``INITS``.
    """
    check(name, classes, width)
    channels, height, side = image(name, shape, least=8, most=64)
    for given, value, known in (("act", act, ACTIVATIONS), ("init", init, INITS)):
        if value not in known:
            raise UserError(f"{name} has {given}={value!r}; {suggest(str(value), known)}")
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UserError(f"{name} has dropout={dropout!r}; it is a share, 0 or more and under 1")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    tight = min(height, side) < 20
    for number, (wide, kernel) in enumerate(plan, 1):
        pooled, padding = number <= pools, 0
        if tight and pooled:
            kernel, padding = 3, 1
        outputs = scaled(wide, width)
        layers[f"conv{number}"] = nn.Conv2d(channels, outputs, kernel, padding=padding)
        channels = outputs
        height, side = (n + 2 * padding - kernel + 1 for n in (height, side))
        if pooled:
            layers[f"pool{number}"] = nn.MaxPool2d(2)
            height, side = height // 2, side // 2
        layers[f"act{number}"] = ACTIVATIONS[act]()
        if dropout and (pooled or number < len(plan)):
            layers[f"drop{number}"] = nn.Dropout(dropout)
    units = scaled(20, width)
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(channels * height * side, units)
    layers[f"act{len(plan) + 1}"] = ACTIVATIONS[act]()
    if dropout:
        layers[f"drop{len(plan) + 1}"] = nn.Dropout(dropout)
    layers["fc2"] = nn.Linear(units, classes)
    model = nn.Sequential(layers)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            INITS[init](module.weight)
            if module.bias is not None:
                nn.init.constant_(module.bias, 0.01)
    return model


_FORMS: dict[str, tuple[Plan, int]] = {
    "zoo_cnn_s": (((8, 5), (6, 5), (4, 2)), 2),
    "zoo_cnn_m": (((6, 5), (9, 5), (6, 2)), 2),
    "zoo_cnn_l": (((16, 3), (32, 3), (15, 3)), 3),
}
for _name, (_plan, _pools) in _FORMS.items():
    _fn = functools.partial(zoo_cnn, _name, _plan, _pools)
    _sizes = ", ".join(str(wide) for wide, _ in _plan)
    _fn.about = f"Small network of the model zoos, {_sizes} channels (Schuerholt et al., 2022)"  # type: ignore[attr-defined]
    NETS.add(_name, _fn)

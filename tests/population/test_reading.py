"""Networks that the lanes read compute what torch computes; others are refused with the reason."""

import numpy as np
import pytest
import torch
from torch import nn

from thrifty.native import lanes
from thrifty.population.reading import Unfit, layers_of

SHAPE = (2, 9, 9)


def head(numbers):
    return [nn.Flatten(), nn.Linear(numbers, 4)]


CHAINS = {
    "pool before act": [nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.Tanh(), *head(27)],
    "act before pool": [nn.Conv2d(2, 3, 3), nn.GELU(), nn.MaxPool2d(2), *head(27)],
    "pools that overlap": [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(3, 2), *head(27)],
    "stride and padding": [nn.Conv2d(2, 3, 5, 2, 2), nn.SiLU(), *head(75)],
    "no bias": [nn.Conv2d(2, 3, 3, bias=False), nn.LeakyReLU(), *head(147)],
    "chains in chains": [
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.Sigmoid(), nn.Identity()),
        nn.Sequential(*head(147)),
    ],
    "linear only": [nn.Flatten(), nn.Linear(162, 5), nn.Dropout(0.5), nn.ReLU(), nn.Linear(5, 4)],
}


@pytest.mark.skipif(not lanes.available(), reason="the lanes are not compiled")
@pytest.mark.parametrize("name", [n for n in CHAINS if n != "linear only"])
def test_a_chain_that_is_read_computes_what_torch_computes(name):
    torch.manual_seed(1)
    model = nn.Sequential(*CHAINS[name]).eval()
    inputs = torch.randint(0, 256, (6, *SHAPE), dtype=torch.uint8)
    labels = torch.arange(6) % 4
    samples = lanes.Samples(
        inputs.reshape(6, -1).numpy(),
        labels.numpy().astype(np.int32),
        np.zeros(2, np.float32),
        np.ones(2, np.float32),
    )
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])[None].numpy()
    runner = lanes.Lanes(layers_of(model, SHAPE))
    loss, right, classes = runner.evaluate(lanes.State(flat.copy()), samples)
    with torch.no_grad():
        outputs = model(inputs.float() / 255)
    assert loss[0] == pytest.approx(float(nn.functional.cross_entropy(outputs, labels)), rel=1e-5)
    assert classes[0].tolist() == outputs.argmax(1).tolist()
    assert right[0] == pytest.approx(float((outputs.argmax(1) == labels).double().mean()))


class Residual(nn.Module):
    def forward(self, x):
        return x + x


UNFIT = {
    "no chain": (Residual(), "Residual is no plain chain"),
    "nothing": (nn.Sequential(), "it has no layer"),
    "act first": ([nn.ReLU(), *head(162)], r"0 \(ReLU\) comes before the first layer"),
    "batch norm": ([nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)], "1 is a BatchNorm2d"),
    "inside": ([nn.Sequential(nn.Conv2d(2, 3, 3), nn.LSTM(3, 3))], r"0\.1 is a LSTM"),
    "groups": ([nn.Conv2d(2, 2, 3, groups=2)], "0 has no square kernel, or groups"),
    "dilation": ([nn.Conv2d(2, 2, 3, dilation=2)], "dilation"),
    "oblong": ([nn.Conv2d(2, 2, (3, 1))], "no square kernel"),
    "same": ([nn.Conv2d(2, 2, 3, padding="same")], "another padding"),
    "circular": ([nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")], "another padding"),
    "channels": ([nn.Conv2d(3, 2, 3)], "takes 3 channels and is given 2"),
    "features": ([nn.Flatten(), nn.Linear(100, 3)], "takes 100 numbers and is given 162"),
    "conv after linear": ([*head(162), nn.Conv2d(1, 1, 1)], "2 is a convolution and is given no"),
    "two acts": ([nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Tanh()], "2 is a second activation"),
    "tanh gelu": ([nn.Conv2d(2, 2, 3), nn.GELU("tanh")], "other numbers than torch's own"),
    "other slope": ([nn.Conv2d(2, 2, 3), nn.LeakyReLU(0.2)], "other numbers than torch's own"),
    "two pools": ([nn.Conv2d(2, 2, 3), nn.MaxPool2d(2), nn.MaxPool2d(2)], "pooled already"),
    "padded pool": ([nn.Conv2d(2, 2, 3), nn.MaxPool2d(3, padding=1)], "pooling without padding"),
    "after dropout": ([nn.Conv2d(2, 2, 3), nn.Dropout(), nn.ReLU()], "2 comes after dropout"),
    "flatten a part": ([nn.Conv2d(2, 2, 3), nn.Flatten(2)], "flattens part of the dimensions"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_the_lanes_do_not_know_is_refused_with_the_reason(name):
    made, said = UNFIT[name]
    model = nn.Sequential(*made) if isinstance(made, list) else made
    with pytest.raises(Unfit, match=said):
        layers_of(model, SHAPE)

"""Tiny networks for the tests of channels, and what must hold for every group of one."""

import pytest
import torch
from torch import nn

from thrifty.channels.costs import Cost, Costs
from thrifty.channels.finding import groups
from thrifty.channels.shrinking import surgery
from thrifty.nets import count_macs


class Net(nn.Module):
    """Layers, and a function that says how they are called."""

    def __init__(self, fn, **layers):
        super().__init__()
        self.fn = fn
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.fn(self, *inputs)


def trained(model):
    """Norms that shift and scale, as training leaves them."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


def thirds(group):
    """Every unit but the second of three."""
    return torch.arange(group.units) % 3 != 1


def prove(model, example, costs=True, each=True):
    """Cut a third of every free group, each alone and together: equal outputs, known costs."""
    found = groups(model, example)
    together = {g.name: thirds(g) for g in found.free}
    every = [{name: keep} for name, keep in together.items()] if each else []
    shape = tuple(example.shape[1:]) if torch.is_tensor(example) and costs else None
    known = set(dict(model.named_parameters()))
    for kept in [*every, together]:
        done = surgery(model, example=example, kept=kept, groups=found)
        assert done.difference <= 1e-5
        parameters = [p for n, p in done.model.named_parameters() if n in known]
        tensors = [*parameters, *done.model.buffers()]
        params = sum(p.numel() for p in parameters)
        size = sum(x.numel() * x.element_size() for x in tensors)
        expected = Costs(model, found, shape).of(kept)
        assert (params, size) == (expected.params, expected.bytes)
        if shape is not None:
            assert Cost(params, count_macs(done.model, shape), size) == expected
    return found


@pytest.fixture(autouse=True)
def seeded():
    """The same numbers every time."""
    torch.manual_seed(0)


@pytest.fixture(name="net")
def make_net():
    """``net(fn, **layers)`` is a network in eval mode."""
    return lambda fn, **layers: trained(Net(fn, **layers))


@pytest.fixture(name="chain")
def make_chain():
    """``chain(*layers)`` is a sequence in eval mode."""
    return lambda *layers: trained(nn.Sequential(*layers))


@pytest.fixture(name="prove")
def make_prove():
    """``prove(model, example)`` cuts every group and compares."""
    return prove


@pytest.fixture(name="trained")
def make_trained():
    """``trained(model)`` gives its norms the numbers of a trained network."""
    return trained

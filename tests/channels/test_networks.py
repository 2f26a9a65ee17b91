"""Real networks lose a third of every group, and compute what they computed with it at zero."""

import pytest
import torch

from thrifty.nets import NETS, architecture_of, resolve

TORCHVISION = {
    "alexnet": (64, 7),
    "convnext_tiny": (32, 18),
    "densenet121": (32, 120),
    "efficientnet_b0": (32, 40),
    "googlenet": (64, 61),
    "mnasnet0_5": (32, 25),
    "mobilenet_v3_small": (32, 27),
    "regnet_x_400mf": (32, 27),
    "resnet18": (32, 12),
    "resnext50_32x4d": (32, 21),
    "shufflenet_v2_x0_5": (32, 20),
    "squeezenet1_1": (32, 25),
}
"""Size of the input, and groups that may be cut."""


@pytest.mark.parametrize("name", NETS.names())
def test_a_built_in_network_is_shrunk_exactly(name, prove, trained):
    model = trained(resolve(f"{name}?width=0.3"))
    shape = architecture_of(model).shape
    size = (*shape[:-2], 16, 16) if name.startswith("resnet") else shape
    assert prove(model, torch.randn(2, *size), each=False).free


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_network_of_torchvision_is_shrunk_exactly(name, prove, trained):
    size, free = TORCHVISION[name]
    model = trained(resolve(f"torchvision:{name}"))
    assert len(prove(model, torch.randn(2, 3, size, size), each=False).free) == free

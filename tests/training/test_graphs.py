"""Compiled or checkpointed, a network trains to the same numbers and keeps its names."""

import shutil

import pytest
import torch
from torch import nn

from thrifty.errors import UserError
from thrifty.nets import resolve
from thrifty.pruning import Budget, Cut, cut
from thrifty.training.loop import train
from thrifty.training.plan import Plan

COMPILER = shutil.which("g++") or shutil.which("clang++")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def trained(blobs, model: nn.Module, tell=None, **said) -> dict[str, torch.Tensor]:
    masks = cut(model, Cut(), Budget(0.5))
    plan = Plan(epochs=1, batch=16, lr=0.01, **said)
    train(model, blobs, plan, masks=masks, tell=tell, seed=1)
    for name, mask in masks.items():
        assert bool((model.state_dict()[name][~mask] == 0).all())
    return {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, as it begins to compile
@pytest.mark.skipif(COMPILER is None, reason="no compiler of C++ is here")
def test_a_compiled_network_is_the_same_but_for_rounding_and_keeps_its_names(blobs):
    told = []
    plain = trained(blobs, network())
    compiled = trained(blobs, network(), told.append, compile=True)
    assert not [event for event in told if "message" in event]
    assert plain.keys() == compiled.keys()
    for name, x in plain.items():
        torch.testing.assert_close(compiled[name], x, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_compiled_is_trained_as_it_is_and_that_is_said(blobs, monkeypatch):
    told = []
    plain = trained(blobs, network())

    def refusing(model):
        def call(inputs):
            raise RuntimeError("no working C++ compiler\nand more")

        return call

    monkeypatch.setattr(torch, "compile", refusing)
    uncompiled = trained(blobs, network(), told.append, compile=True)
    said = [event["message"] for event in told if "message" in event]
    assert said == [
        "the network is trained uncompiled, for torch.compile failed: no working C++ compiler"
    ]
    assert all(torch.equal(plain[name], x) for name, x in uncompiled.items())


def test_checkpointing_changes_no_number_and_is_undone(blobs):
    spec, shape = "thriftynet?filters=8&iterations=4&history=2", (1, 8, 8)
    found = []
    for wanted in (False, True):
        torch.manual_seed(0)
        model = resolve(spec, classes=3, shape=shape)
        found.append(trained(blobs, model, checkpointing=wanted))
        assert not model.checkpointing
    for name, x in found[0].items():
        torch.testing.assert_close(found[1][name], x, rtol=1e-4, atol=1e-5)


def test_checkpointing_of_a_network_that_cannot_is_refused(blobs):
    with pytest.raises(UserError, match="no module of Sequential has an attribute 'checkpointing'"):
        trained(blobs, network(), checkpointing=True)

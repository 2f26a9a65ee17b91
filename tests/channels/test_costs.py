"""What is left of a network, known before it is built."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from thrifty.channels.costs import Costs
from thrifty.channels.finding import groups
from thrifty.channels.removal import removed
from thrifty.nets import count_macs, resolve


def conv(ins, outs, **options):
    return nn.Conv2d(ins, outs, 3, padding=1, **options)


def measured(model, shape):
    parameters = list(model.parameters())
    tensors = [*parameters, *model.buffers()]
    return (
        sum(p.numel() for p in parameters),
        count_macs(model, shape),
        sum(x.numel() * x.element_size() for x in tensors),
    )


def test_costs_are_those_of_the_definition(chain):
    model = chain(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 2))
    found = groups(model, torch.randn(2, 3, 4, 4))
    costs = Costs(model, found, (3, 4, 4))
    macs = 16 * 9 * (3 * 8 + 8 * 2)
    buffers = 2 * 8 * 4 + 8
    params = 27 * 8 + 8 + 16 + 72 * 2 + 2
    assert costs.of({}) == (params, macs, params * 4 + buffers)
    one = costs.each()["0"]
    assert one == (27 + 1 + 2 + 9 * 2, 16 * 9 * (3 + 2), (27 + 1 + 2 + 18 + 2) * 4)


def test_costs_of_one_unit_are_shown_for_groups_that_may_lose_one(chain):
    model = chain(conv(3, 8), conv(8, 2))
    costs = Costs(model, groups(model, torch.randn(2, 3, 4, 4)), (3, 4, 4))
    first, last = costs.to_rows()
    assert (first["group"], first["params"], first["macs"]) == ("0", 27 + 1 + 18, 16 * 45)
    assert (last["whole"], last["params"]) == ("they are the output of the network", None)


NETWORKS = {
    "lenet": (1, 28, 28),
    "resnet20": (3, 16, 16),
    "squeezenet?width=0.25": (3, 32, 32),
}
KNOWN = {}


def known(name):
    if name not in KNOWN:
        torch.manual_seed(0)
        model = resolve(name).eval()
        found = groups(model, torch.randn(2, *NETWORKS[name]), check=False)
        KNOWN[name] = model, found, Costs(model, found, NETWORKS[name])
    return KNOWN[name]


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=5, deadline=None)
@given(st.data())
def test_costs_are_exact_whatever_is_cut(name, data):
    model, found, costs = known(name)
    kept = {}
    for group in found.free:
        seed = data.draw(st.integers(0, 9))
        keep = torch.rand(group.units, generator=torch.Generator().manual_seed(seed)) > seed / 10
        keep[0] = True
        kept[group.name] = keep
    small, _ = removed(model, found, kept)
    assert tuple(costs.of(kept)) == measured(small, NETWORKS[name])


def test_heads_take_their_products_with_them(net, prove):
    def fn(s, x):
        q, k, v = s.qkv(x).unflatten(-1, (3, -1, 2)).permute(2, 0, 3, 1, 4)
        return s.out((q @ k.transpose(-2, -1) @ v).transpose(1, 2).flatten(2))

    model = net(fn, qkv=nn.Linear(5, 24), out=nn.Linear(8, 3))
    found = prove(model, torch.randn(2, 6, 5))
    costs = Costs(model, found, (6, 5))
    whole, less = costs.of({}), costs.of({"qkv": torch.arange(4) > 0})
    assert whole.macs - less.macs == 6 * 5 * 6 + 6 * 2 * 3 + 2 * 6 * 6 * 2


def test_a_type_of_two_bytes_takes_two(chain):
    model = chain(conv(3, 8), conv(8, 2)).to(torch.bfloat16)
    costs = Costs(model, groups(model, torch.randn(2, 3, 4, 4)))
    assert costs.of({}).bytes == 2 * costs.of({}).params


def test_without_a_shape_products_are_counted_as_they_ran(chain):
    model = chain(conv(3, 8), conv(8, 2))
    found = groups(model, torch.randn(2, 3, 4, 4))
    assert Costs(model, found).of({}) == Costs(model, found, (3, 4, 4)).of({})

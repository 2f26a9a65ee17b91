"""Removing channels: what is equal, what is folded, and what a smaller network can still do."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thrifty.channels.finding import groups
from thrifty.channels.removal import distance
from thrifty.channels.shrinking import shrink, surgery

PICTURE = (2, 3, 8, 8)


def conv(ins, outs, kernel=3, padding=0, **options):
    return nn.Conv2d(ins, outs, kernel, padding=padding, **options)


def silence(model, name, rows):
    """Zero the filters that make some channels, and leave whatever comes behind them."""
    with torch.no_grad():
        dict(model.named_parameters())[name][rows] = 0


def small_net(chain, padding=0, act=None, **options):
    return chain(
        conv(3, 8, padding=padding, bias=False),
        nn.BatchNorm2d(8),
        act or nn.ReLU(),
        conv(8, 6, padding=padding, **options),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


@pytest.mark.parametrize("act", [nn.ReLU(), nn.Sigmoid(), nn.SiLU(), nn.Softplus(), nn.GELU()])
@pytest.mark.parametrize("bias", [True, False])
def test_the_constants_of_removed_channels_are_folded(chain, act, bias):
    model = small_net(chain, act=act, bias=bias)
    silence(model, "0.weight", [1, 4, 5])
    done = surgery(model, example=torch.randn(PICTURE))
    assert done.model[0].out_channels == done.model[3].in_channels == 5
    assert done.border <= 1e-6
    x = torch.randn(5, 3, 10, 10)  # not the example
    torch.testing.assert_close(done.model(x), model(x), atol=1e-5, rtol=1e-5)


def test_a_folded_constant_is_that_of_the_definition(chain):
    model = small_net(chain)
    silence(model, "0.weight", [2])
    bn, reader = model[1], model[3]
    sent = F.relu(
        bn.bias[2] - bn.weight[2] * bn.running_mean[2] / (bn.running_var[2] + bn.eps).sqrt()
    )
    expected = reader.bias + reader.weight[:, 2].sum((1, 2)) * sent
    small = shrink(model, example=torch.randn(PICTURE))
    torch.testing.assert_close(small[3].bias, expected)


def test_a_constant_before_a_norm_is_taken_from_its_running_mean(chain):
    model = chain(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6, bias=False), nn.BatchNorm2d(6)
    )
    silence(model, "0.weight", [0, 7])
    small = shrink(model, example=torch.randn(PICTURE))
    assert small[3].bias is None
    assert not torch.equal(small[4].running_mean, model[4].running_mean)
    x = torch.randn(PICTURE)
    torch.testing.assert_close(small(x), model(x), atol=1e-5, rtol=1e-5)


def test_two_layers_before_one_norm_get_a_bias_each(net):
    model = net(
        lambda s, x: s.norm(s.b(F.relu(s.a(x)))) + s.norm(s.d(F.relu(s.c(x)))),
        a=conv(3, 8),
        b=conv(8, 4, bias=False),
        c=conv(3, 8),
        d=conv(8, 4, bias=False),
        norm=nn.BatchNorm2d(4),
    )
    silence(model, "a.weight", [1, 2])
    small = shrink(model, example=torch.randn(PICTURE))
    assert small.a.out_channels == 6
    x = torch.randn(PICTURE)
    torch.testing.assert_close(small(x), model(x), atol=1e-5, rtol=1e-5)


def test_a_constant_at_padded_borders_is_an_error_that_is_measured(chain):
    model = small_net(chain, padding=1)
    nn.init.constant_(model[1].bias, 2.0)
    silence(model, "0.weight", [1, 4])
    example = torch.randn(PICTURE)
    done = surgery(model, example=example)
    assert done.difference <= 1e-6
    assert done.border > 1e-3
    assert done.border == distance(model, done.model, (example,))


def test_without_a_constant_padding_is_exact(chain):
    model = small_net(chain, padding=1)
    silence(model, "0.weight", [1, 4])
    with torch.no_grad():
        model[1].bias[[1, 4]] = -9.0  # nothing gets through the ReLU
    assert surgery(model, example=torch.randn(PICTURE)).border == 0


def test_a_layer_that_reads_two_constants_keeps_the_channel(net):
    model = net(
        lambda s, x: s.out(F.relu(s.twice(F.relu(s.twice(F.relu(s.stem(x))))))),
        stem=nn.Linear(5, 6),
        twice=nn.Linear(6, 6),
        out=nn.Linear(6, 3),
    )
    silence(model, "stem.weight", [1, 3])
    silence(model, "twice.weight", [1, 3])
    with torch.no_grad():
        model.stem.bias[[1, 3]] = torch.tensor([1.0, -1.0])
        model.twice.bias[[1, 3]] = torch.tensor([2.0, -1.0])
    done = surgery(model, example=torch.randn(2, 5))
    assert done.kept["stem"].tolist() == [True, True, True, False, True, True]
    assert done.border <= 1e-6


def test_what_positions_add_keeps_the_channel(net):
    model = net(
        lambda s, x: s.out(F.relu(s.emb(x) + s.where)),
        emb=nn.Linear(5, 6),
        where=nn.Parameter(torch.randn(1, 7, 6)),
        out=nn.Linear(6, 3),
    )
    silence(model, "emb.weight", [1])
    done = surgery(model, example=torch.randn(2, 7, 5))
    assert done.kept == {}
    assert done.border == 0


def test_a_norm_with_scale_zero_makes_nothing(chain):
    model = small_net(chain)
    with torch.no_grad():
        model[1].weight[[0, 3]] = 0
    small = shrink(model, example=torch.randn(PICTURE))
    assert small[0].out_channels == 6
    x = torch.randn(PICTURE)
    torch.testing.assert_close(small(x), model(x), atol=1e-5, rtol=1e-5)


def test_channels_that_nobody_reads_go(chain):
    model = small_net(chain)
    with torch.no_grad():
        model[3].weight[:, [0, 1]] = 0
    small = shrink(model, example=torch.randn(PICTURE))
    assert small[0].out_channels == 6
    x = torch.randn(PICTURE)
    torch.testing.assert_close(small(x), model(x), atol=1e-6, rtol=1e-6)


def shrunk_third(model, example):
    found = groups(model, example)
    kept = {g.name: torch.arange(g.units) % 3 != 1 for g in found.free}
    assert kept
    return shrink(model, example=example, kept=kept)


def test_a_smaller_network_trains(chain):
    small = shrunk_third(small_net(chain), torch.randn(PICTURE)).train()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9)
    before = [p.clone() for p in small.parameters()]
    small(torch.randn(4, 3, 8, 8)).square().mean().backward()
    assert all(p.grad is not None for p in small.parameters())
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, small.parameters(), strict=True))


def test_a_smaller_network_is_copied_and_its_state_fits_the_copy(chain):
    small = shrunk_third(small_net(chain), torch.randn(PICTURE))
    twin = copy.deepcopy(small)
    twin.load_state_dict(small.state_dict())
    x = torch.randn(PICTURE)
    assert torch.equal(small(x), twin(x))


def test_layers_say_their_new_sizes(chain):
    small = shrunk_third(small_net(chain), torch.randn(PICTURE))
    assert (small[0].out_channels, small[1].num_features) == (5, 5)
    assert (small[3].in_channels, small[3].out_channels, small[7].in_features) == (5, 4, 4)


def test_frozen_parameters_stay_frozen(chain):
    model = small_net(chain)
    model[0].weight.requires_grad_(False)
    small = shrunk_third(model, torch.randn(PICTURE))
    assert [p.requires_grad for p in small.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]


def test_the_mode_of_every_module_is_kept(chain):
    model = small_net(chain).train()
    model[1].eval()
    small = shrunk_third(model, torch.randn(PICTURE))
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]


def test_channels_last_is_kept(chain):
    model = small_net(chain).to(memory_format=torch.channels_last)
    example = torch.randn(PICTURE).to(memory_format=torch.channels_last)
    small = shrunk_third(model, example)
    assert small[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert not small[3].weight.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_networks_of_other_types_are_followed_and_keep_their_type(chain, dtype):
    model = small_net(chain).to(dtype)
    found = groups(model, torch.randn(PICTURE))
    assert [g.name for g in found.free] == ["0", "3"]
    silence(model, "0.weight", [0, 1])
    done = surgery(model, example=torch.randn(PICTURE))
    assert {p.dtype for p in done.model.parameters()} == {dtype}
    assert done.model[0].out_channels == 6
    assert done.border <= 0.02


def test_onnxruntime_computes_the_same(chain, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    small = shrunk_third(small_net(chain), torch.randn(PICTURE)).eval()
    x = torch.randn(PICTURE)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        torch.onnx.export(small, (x,), str(tmp_path / "net.onnx"), dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"))
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), small(x).detach(), atol=1e-5, rtol=1e-5)

"""The networks of benchmarks/engine: what they are, and that they are pruned as they say."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from thrifty.nets import architecture_of

FOLDER = Path(__file__).parent.parent / "benchmarks" / "engine"


def module(name):
    """A file of the benchmarks, which are no package."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found  # dataclasses look their module up; speed imports networks
    spec.loader.exec_module(found)
    return found


networks = module("networks")
speed = module("speed")


def ratio(name, middle, precision="f32"):
    return {
        "contender": name,
        "precision": precision,
        "batch": 1,
        "threads": 1,
        "base": "thrifty",
        "ratio": {"middle": middle, "low": middle, "high": middle},
    }


def test_the_wide_network_halves_the_picture_where_it_should():
    seen, model = [], networks.Wide(1)
    model.blocks.register_forward_hook(lambda m, i, o: seen.append(tuple(o.shape[2:])))
    assert model.eval()(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    assert seen == [(8, 8)]


def test_the_highway_network_is_the_registered_one_with_drawn_weights():
    model = networks.pruned("highway", 0.0)
    assert architecture_of(model).model == "highway"
    assert all(bool(p.any()) for n, p in model.named_parameters() if n.endswith("weight"))


def test_a_uniform_cut_leaves_the_first_convolution_and_the_classifier_whole():
    model = networks.pruned("resnet20", 0.9)
    kept = {n: (p != 0).float().mean() for n, p in model.named_parameters() if p.dim() > 1}
    assert kept.pop("conv1.weight") == 1 and kept.pop("linear.weight") == 1
    for name, share in kept.items():
        assert share == pytest.approx(0.1, abs=0.01), name


def test_a_global_cut_keeps_exactly_the_share_that_was_asked():
    model = networks.pruned("resnet20", 0.8, "global")
    weights = [p for p in model.parameters() if p.dim() > 1]
    zeros = sum(int((p == 0).sum()) for p in weights) / sum(p.numel() for p in weights)
    assert zeros == pytest.approx(0.8, abs=1e-4)


def test_activations_keep_their_scale_after_a_cut():
    model = networks.pruned("resnet20", 0.95)
    assert not model.training
    with torch.no_grad():
        out = model(torch.randn(8, 3, 32, 32))
    assert 0.05 < out.std() < 50


def test_the_summary_names_the_best_dense_and_the_geometric_mean():
    done = [
        {"network": "resnet20", "sparsity": 0.9, "rows": [ratio("a", 8.0), ratio("b", 2.0)]},
        {"network": "wrn", "sparsity": 0.9, "rows": [ratio("a", 8.0), ratio("c", 3.0, "bf16")]},
    ]
    lines = [line.split() for line in speed.summary(done).splitlines()]
    assert ["90%", "1", "1", "f32", "2.00", "8.00", "4.00"] in lines
    assert ["90%", "1", "1", "bf16", "3.00", "3.00"] in lines


def test_without_ours_there_is_no_summary():
    rows = [ratio("a", 1.0) | {"base": "a"}]
    assert "did not run" in speed.summary([{"network": "wrn", "sparsity": 0.9, "rows": rows}])

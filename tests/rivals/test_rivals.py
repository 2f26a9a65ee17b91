"""Every rival of the registry gives torch's answers, in the precision it states."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from thrifty.errors import UserError
from thrifty.lab.contenders import TOLERANCES
from thrifty.nets import resolve
from thrifty.pack.operations import relative_difference
from thrifty.rivals import RIVALS
from thrifty.rivals.graphs import graph_of

every_rival = pytest.mark.parametrize("name", RIVALS.names())
ASKED = {"torch", "torch_bf16", "onnxruntime", "openvino", "openvino_bf16"}


def network():
    torch.manual_seed(0)
    return resolve("three_methods_cnn?width=0.5", shape=(1, 8, 8)).eval()


def loaded(name, model, example, threads=1):
    try:
        return RIVALS.get(name).load(model, example, threads)
    except UserError as error:
        if "on this processor" in str(error):  # no bfloat16 in it
            pytest.skip(str(error))
        raise


@pytest.fixture(autouse=True)
def threads_put_back():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_rivals_that_matter_are_there():
    assert set(RIVALS.names()) >= ASKED


@every_rival
def test_it_says_what_it_is_and_its_version(name):
    rival = RIVALS.get(name)
    assert RIVALS.summary(name)
    assert rival.precision in TOLERANCES
    assert any(c.isdigit() for c in rival.version())


@every_rival
@pytest.mark.parametrize("batch", [1, 3])
def test_its_answers_are_torchs_for_any_input_of_that_batch(name, batch):
    model = network()
    run = loaded(name, model, torch.randn(batch, 1, 8, 8))
    for seed in range(2):
        x = torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            expected = model(x).numpy()
        found = run(x.numpy())
        assert found.dtype == np.float32
        apart = relative_difference(found, expected)
        assert apart <= TOLERANCES[RIVALS.get(name).precision]


@pytest.mark.parametrize("name", [n for n in RIVALS.names() if RIVALS.get(n).precision == "bf16"])
def test_one_that_states_bfloat16_really_rounds(name):
    model, x = network(), torch.randn(2, 1, 8, 8)
    found = loaded(name, model, x)(x.numpy())
    with torch.no_grad():
        assert relative_difference(found, model(x).numpy()) > 1e-4


@every_rival
def test_the_network_is_left_as_it_was(name):
    model, x = network(), torch.randn(2, 1, 8, 8)
    before = {n: (v.clone(), v.stride(), v.dtype) for n, v in model.state_dict().items()}
    loaded(name, model, x)(x.numpy())
    for n, v in model.state_dict().items():
        assert torch.equal(v, before[n][0]) and (v.stride(), v.dtype) == before[n][1:]


def test_eager_torch_keeps_to_its_threads_whatever_others_set():
    seen = []

    class Watching(nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return x

    run = RIVALS.get("torch").load(Watching(), torch.zeros(1, 2), 1)
    torch.set_num_threads(2)
    run(np.zeros((1, 2), np.float32))
    assert seen[-1] == 1


def test_a_network_of_several_outputs_is_refused():
    class Two(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(UserError, match="not one tensor"):
        RIVALS.get("torch").load(Two(), torch.zeros(1, 2), 1)(np.zeros((1, 2), np.float32))


def test_a_graph_is_kept_until_a_weight_changes():
    model, x = nn.Linear(3, 2).eval(), torch.randn(2, 3)
    first = graph_of(model, x)
    assert graph_of(model, x) is first
    with torch.no_grad():
        model.weight.mul_(2)
    assert graph_of(model, x) != first


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_a_missing_package_is_named_with_its_extra(package):
    code = f"""
import sys
sys.modules[{package!r}] = None
import torch
from thrifty.errors import MissingExtra
from thrifty.rivals import RIVALS
try:
    RIVALS.get({package!r}).load(torch.nn.Linear(2, 2), torch.zeros(1, 2), 1)
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert package in done.stdout
    assert "pip install 'thrifty[bench]'" in done.stdout

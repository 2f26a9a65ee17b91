"""Networks written for other programs, read by those programs."""

import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import thrifty
from thrifty.errors import UnknownName, UserError
from thrifty.pack import save
from thrifty.pack.exporting import export
from thrifty.pack.formats.torch_sparse import smallest
from thrifty.pack.operations import relative_difference, resized


def network(sparsity=0.0):
    torch.manual_seed(0)
    model = thrifty.resolve("three_methods_cnn?width=0.5", shape=(1, 8, 8))
    if sparsity:
        thrifty.prune(model, "magnitude", sparsity)
    return model.eval()


def loaded(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, weights_only=True)


def tied():
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    model[1].weight = model[0].weight
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(40, 40) < 0.02)
    return model


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_onnx_answers_as_torch_does_for_any_batch(batch, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = network(0.8)
    done = export(model, tmp_path / "m.onnx", "onnx")
    assert done.facts["batch"] == "any"
    assert done.facts["checked"].startswith("onnxruntime")
    assert done.facts["difference"] < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    x = torch.randn(batch, 1, 8, 8)
    with torch.no_grad():
        expected = model(x).numpy()
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_masks_cut_is_zero_in_onnx_and_the_network_stays_whole(tmp_path):
    onnx = pytest.importorskip("onnx")
    model = network()
    masks = {n: torch.rand(p.shape) < 0.1 for n, p in model.named_parameters() if p.dim() == 4}
    export(model, tmp_path / "m.onnx", "onnx", masks=masks)
    tensors = {
        t.name: onnx.numpy_helper.to_array(t)
        for t in onnx.load(tmp_path / "m.onnx").graph.initializer
    }
    kept = sorted(int(mask.sum()) for mask in masks.values())
    assert sorted(int((x != 0).sum()) for x in tensors.values() if x.ndim == 4) == kept
    assert all(bool(p.all()) for p in model.parameters() if p.dim() == 4)


def test_onnx_holds_weights_and_operations_and_nothing_of_the_machine_that_wrote_it(tmp_path):
    pytest.importorskip("onnx")
    model = thrifty.resolve("thriftynet?filters=8&iterations=12&mode=classic", shape=(3, 16, 16))
    export(model.eval(), tmp_path / "m.onnx", "onnx")
    content = (tmp_path / "m.onnx").read_bytes()
    assert not any(word in content for word in (b"thrifty", b"stack_trace", b".py", b"aten"))
    weights = 4 * sum(x.numel() for x in model.state_dict().values())
    operations = 12 * (1 + 1 + 5 + 5 + 1)  # of an iteration: convolution, tanh, 2 a history, norm
    assert len(content) < weights + 250 * operations


def test_a_network_that_knows_no_shape_needs_an_example(tmp_path):
    model = nn.Linear(3, 2)
    with pytest.raises(UserError, match="--shape 3x224x224 or --data"):
        export(model, tmp_path / "m.onnx", "onnx")
    assert not list(tmp_path.iterdir())
    assert export(model, tmp_path / "m.onnx", "onnx", example=torch.randn(1, 3)).bytes > 0


def test_a_batch_that_code_makes_constant_is_exported_as_it_is_and_told(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(2, 6) * 2

    done = export(Fixed(), tmp_path / "m.onnx", "onnx", example=torch.randn(2, 2, 3))
    assert done.facts["batch"] == "2"


def test_what_torch_cannot_export_is_told_in_one_line_and_leaves_no_file(tmp_path):
    class Wild(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x  # a branch that numbers decide

    with pytest.raises(UserError, match="Wild cannot be written as ONNX") as error:
        export(Wild(), tmp_path / "m.onnx", "onnx", example=torch.randn(2, 3))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_example_that_does_not_fit_is_told(tmp_path):
    with pytest.raises(UserError, match=r"does not take inputs of shape \[2, 3\]"):
        export(network(), tmp_path / "m.onnx", "onnx", example=torch.randn(2, 3))


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_its_packages_onnx_names_the_extra(package):
    """Their metadata are hidden, as they are where a package is not installed."""
    code = f"""
import importlib.metadata as m
version = m.version
def hidden(name):
    if name == {package!r}:
        raise m.PackageNotFoundError(name)
    return version(name)
m.version = hidden
import torch
from thrifty.errors import MissingExtra
from thrifty.pack.exporting import export
try:
    export(torch.nn.Linear(2, 2), "never.onnx", "onnx", example=torch.zeros(1, 2))
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"needs the package '{package}'" in done.stdout
    assert "thrifty[onnx]" in done.stdout


def test_a_sparse_state_dict_fills_a_network_without_thrifty(tmp_path):
    model = network(0.98)
    export(model, tmp_path / "m.pt", "torch_sparse")
    state = loaded(tmp_path / "m.pt")
    assert {str(x.layout) for x in state.values()} >= {"torch.sparse_coo", "torch.strided"}
    again = network()
    again.load_state_dict({name: x.to_dense() for name, x in state.items()})
    for name, x in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], x), name


def test_sparse_tensors_make_the_file_smaller_where_zeros_are_many(tmp_path):
    model = nn.Linear(300, 300)
    dense = export(model, tmp_path / "dense.pt", "torch_sparse")
    thrifty.prune(model, "magnitude", 0.95)
    done = export(model, tmp_path / "m.pt", "torch_sparse")
    assert done.bytes < dense.bytes / 5
    assert done.facts["sparse_csr tensors"] == 1


def test_a_tied_tensor_is_there_under_both_names(tmp_path):
    model = tied()
    export(model, tmp_path / "m.pt", "torch_sparse")
    state = {name: x.to_dense() for name, x in loaded(tmp_path / "m.pt").items()}
    assert set(state) == set(model.state_dict())
    tied().load_state_dict(state)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 12), min_size=0, max_size=4),
    st.floats(0, 1),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool]),
)
def test_the_smallest_layout_gives_every_tensor_back(shape, share, dtype):
    x = (torch.randn(shape) * 9).to(dtype) * (torch.rand(shape) < share).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        back = smallest(x)
        assert back.shape == x.shape and back.dtype == x.dtype
        assert torch.equal(back.to_dense(), x)


def test_a_negative_zero_is_a_zero():
    x = -torch.zeros(100, 100)
    x[3, 4] = 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert smallest(x)._nnz() == 1


def test_a_folder_for_the_hub_is_read_by_safetensors_and_by_thrifty(tmp_path):
    model = network(0.9)
    done = export(model, tmp_path / "net", "hf")
    assert sorted(p.name for p in (tmp_path / "net").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert done.bytes == sum(p.stat().st_size for p in (tmp_path / "net").iterdir())
    tensors = safetensors.torch.load_file(tmp_path / "net" / "model.safetensors")
    again = thrifty.resolve(tmp_path / "net")
    for name, x in model.state_dict().items():
        assert torch.equal(tensors[name], x) and torch.equal(again.state_dict()[name], x)
    with safetensors.safe_open(tmp_path / "net" / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_config_and_card_hold_figures_that_are_counted(tmp_path):
    model = network(0.9)
    export(model, tmp_path / "net", "hf", metadata={"accuracy": "0.98 | of <digits>"})
    about = json.loads((tmp_path / "net" / "config.json").read_text())
    parameters = list(model.parameters())
    assert about["parameters"] == sum(p.numel() for p in parameters)
    assert about["nonzero"] == sum(int((p != 0).sum()) for p in parameters)
    assert about["model"] == "three_methods_cnn?width=0.5"
    card = (tmp_path / "net" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: thrifty\n")
    assert f"{about['nonzero']:,}" in card
    assert "0.98 \\| of &lt;digits>" in card


def test_the_card_of_a_dense_network_claims_no_pruning(tmp_path):
    export(network(), tmp_path / "net", "hf")
    card = (tmp_path / "net" / "README.md").read_text()
    assert "dense network" in card and "pruned with" not in card


def test_the_card_reads_as_the_hub_reads_it(tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    export(network(0.5), tmp_path / "net", "hf")
    card = hub.ModelCard.load(tmp_path / "net" / "README.md")
    assert card.data.library_name == "thrifty"
    assert card.data.tags == ["pruning", "sparse"]


def test_a_folder_that_has_something_is_not_touched(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "mine").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        export(network(), tmp_path / "net", "hf")
    assert [p.name for p in tmp_path.rglob("*")] == ["net", "mine"]


def test_a_failed_folder_leaves_nothing(tmp_path):
    model = network()
    with torch.no_grad():
        model.get_parameter(next(n for n, _ in model.named_parameters())).fill_(math.nan)
    with pytest.raises(UserError):
        export(model, tmp_path / "net", "hf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("to", "name", "match"),
    [
        ("onnx", "m.pt", r"does not end in \.onnx"),
        ("torch_sparse", "m.onnx", r"does not end in \.pt"),
        ("onnx", ".", "is a folder"),
    ],
)
def test_a_path_that_does_not_suit_the_format_is_told(to, name, match, tmp_path):
    with pytest.raises(UserError, match=match):
        export(network(), tmp_path / name, to)


def test_an_unknown_format_is_told_with_those_that_are_like_it(tmp_path):
    with pytest.raises(UnknownName, match="did you mean onnx"):
        export(network(), tmp_path / "m", "onx")


def test_a_dense_format_holds_what_save_writes(tmp_path):
    model = network(0.5)
    done = export(model, tmp_path / "a.safetensors", "safetensors")
    assert done.bytes == save(model, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("found", "expected", "apart"),
    [
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([math.nan, 2.0], [math.nan, 2.0], 0.0),
        ([math.nan, 2.0], [1.0, 2.0], math.nan),
        ([1.0, 2.0], [math.nan, 2.0], math.inf),
        ([math.inf, 1.0], [math.inf, 1.0], 0.0),
        ([-math.inf, 1.0], [math.inf, 1.0], math.inf),
        ([1.0], [1.0, 2.0], math.inf),
        ([0.5], [0.0], 0.5),
        ([], [], 0.0),
    ],
)
def test_differences_are_relative_and_no_number_hides_one(found, expected, apart):
    value = relative_difference(np.array(found), np.array(expected))
    assert value == apart or (math.isnan(apart) and not value <= 1.0)


def test_inputs_are_repeated_to_fill_a_batch():
    x = torch.arange(6.0).reshape(3, 2)
    assert resized(x, 5).tolist() == [*x.tolist(), *x[:2].tolist()]
    assert resized(x, 2).tolist() == x[:2].tolist()


@pytest.mark.real
def test_a_published_network_answers_alike_in_onnxruntime(real_data, tmp_path):
    weights = real_data / "weights" / "cifar10" / "resnet20-12fca82f.th"
    done = export(thrifty.resolve("resnet20", weights=weights), tmp_path / "m.onnx", "onnx")
    assert done.facts["difference"] < 1e-5

"""Networks of ours become programs; models stay as they are; what cannot be done says so."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import thrifty
from thrifty.errors import UserError
from thrifty.lowering import lower
from thrifty.lowering.interpreting import interpret

NETS = ("lenet", "lenet_300_100", "resnet20", "three_methods_cnn", "vgg11_bn", "vgg16_bn")


def built(name, shape=(3, 32, 32)):
    return thrifty.resolve(name, shape=shape)


def alive(model):
    """Batch norm that does something, so that leaving it out would show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return model


@pytest.mark.parametrize("name", NETS)
def test_a_network_of_ours_is_its_program(same, name):
    shape = (1, 28, 28) if name.startswith("lenet") else (3, 32, 32)
    same(alive(built(name, shape=shape)), shape)


def test_squeezenet_is_its_program(same):
    same(built("squeezenet", shape=(3, 67, 67)), (3, 67, 67))


def test_a_residual_network_is_convolutions_and_little_else(same):
    program = same(alive(built("resnet20")), (3, 32, 32))
    kinds = [op.kind for op in program.ops]
    assert kinds.count("conv") >= 19 and kinds.count("linear") == 1
    assert not {"add", "map", "affine", "fallback"} & set(kinds)


def test_a_shrunk_network_is_its_program(same):
    model = alive(built("resnet20"))
    half = thrifty.Budget(0.5, of="macs")
    small = thrifty.prune_channels(model, "l1_filter", half, torch.randn(2, 3, 32, 32))
    same(small, (3, 32, 32))


class Odd(nn.Module):
    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def state(model):
    modes = {name: module.training for name, module in model.named_modules()}
    attributes = {name: dict(vars(module)) for name, module in model.named_modules()}
    return copy.deepcopy(model.state_dict()), modes, attributes


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU())
    model[1].eval()
    model[0].weight.requires_grad_(False)
    before = state(model)
    weight = model[0].weight
    lowered = lower(model, torch.randn(2, 3, 6, 6))
    after = state(model)
    assert before[1] == after[1]
    assert before[2].keys() == after[2].keys()
    assert all(set(before[2][name]) == set(after[2][name]) for name in before[2])
    for name, x in before[0].items():
        assert torch.equal(x, after[0][name])
    assert model[0].weight is weight
    assert lowered.tensors["0.weight"].data_ptr() == weight.data_ptr()


def test_what_a_model_caches_as_it_runs_is_not_left_behind():
    """A cache that is filled during export would hold tensors without numbers."""

    def caching(s, x):
        if "index" not in s.cache:
            s.cache["index"] = torch.arange(4) * s.factor
            s.seen.append(1)
        return x * s.cache["index"].view(4, 1, 1)

    model = Odd(caching)
    model.factor, model.cache, model.seen = nn.Parameter(torch.ones(1)), {}, []
    cache = model.cache
    lower(model, torch.randn(2, 4, 3, 3))
    assert model.cache is cache and cache == {} and model.seen == []
    assert torch.isfinite(model(torch.randn(2, 4, 3, 3))).all()


def test_a_model_that_amplifies_rounding_is_compared_in_float64():
    """Each step of the logistic map doubles the error; 60 leave nothing of float32."""

    def chaotic(s, x):
        y = torch.sigmoid(s.fc(x))
        for _ in range(60):
            y = 3.99 * y * (1 - y)
        return y

    model = Odd(chaotic, fc=nn.Linear(4, 64))
    x = torch.randn(3, 4)
    lowered = lower(model, x)
    exact = copy.deepcopy(model).double()
    assert not torch.allclose(model(x).double(), exact(x.double()), atol=1e-2)
    assert lowered.program.ops[0].kind == "linear"


def test_what_does_not_depend_on_inputs_is_computed_once(same):
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    prune.l1_unstructured(model[0], "weight", 0.5)
    (op,) = same(model, (3, 6, 6), kinds=["conv"]).ops
    assert op.tensors["weight"].startswith("program:") and op.tensors["bias"] == "0.bias"
    same(parametrizations.weight_norm(nn.Linear(4, 3)), (4,), kinds=["linear"])


def test_buffers_that_are_not_saved_are_constants_of_the_program(same):
    layer = Odd(lambda s, x: x * s.scale)
    layer.register_buffer("scale", torch.randn(3, 1, 1), persistent=False)
    (op,) = same(layer, (3, 4, 4), kinds=["affine"]).ops
    assert op.tensors["scale"].startswith("program:")


def test_a_batch_of_one_is_enough_of_an_example():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    lowered = lower(model, torch.randn(1, 3, 2, 2))
    x = torch.randn(7, 3, 2, 2)
    assert torch.allclose(interpret(lowered.program, lowered.tensors, x), model(x), atol=1e-5)


def test_a_loop_over_the_images_is_two_static_programs_or_an_error():
    def counted(s, x):
        return x.view(int(x.shape[0]), -1) * 2

    lowered = lower(Odd(counted), torch.randn(2, 3, 4))
    assert lowered.program.values[lowered.program.outputs[0]] == (12,)
    with pytest.raises(UserError, match="must not depend on the size"):
        lower(Odd(lambda s, x: torch.cat([y * 2 for y in x]).view(len(x), -1)), torch.randn(2, 3))


def test_a_batch_that_is_a_number_in_the_code_is_exported_twice():
    def fixed(s, x):
        size = len(range(x.shape[0]))
        return x.reshape(size * 3, 4).relu().reshape(size, 12)

    lowered = lower(Odd(fixed), torch.randn(2, 3, 4))
    assert "exported at 2 and 3 images instead" in lowered.notes[0]
    x = torch.randn(5, 3, 4)
    assert torch.equal(interpret(lowered.program, lowered.tensors, x), x.relu().flatten(1))


REFUSED = {
    "depends on its inputs|does not depend on its inputs": lambda s, x: torch.ones(3),
    "mixes the images": lambda s, x: x.mean(0),
    "is random": lambda s, x: x + torch.rand(4),
    "module ''.*rand": lambda s, x: x + torch.rand_like(x),
    "float32 with the batch first": lambda s, x: x.t(),
    "torch.int64": lambda s, x: x.argmax(1),
    "torch.float64": lambda s, x: x.double().exp().float(),
    "no pure operator": lambda s, x: torch.fft.rfft(x).real,
    "cannot follow": lambda s, x: x if x.sum() > 0 else -x,
    "two dimensions": lambda s, x: (x @ x.t()).softmax(1) @ x,
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_a_program_cannot_say_is_refused(said):
    with pytest.raises(UserError, match=said):
        lower(Odd(REFUSED[said]), torch.randn(3, 4))


def test_batch_norm_of_the_batch_itself_is_refused_by_name():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(UserError, match="module '1'.*statistics of the batch"):
        lower(model, torch.randn(2, 3, 6, 6))


def test_a_model_that_keeps_something_is_refused():
    def counting(s, x):
        s.seen.add_(1)
        return x * 2

    model = Odd(counting)
    model.register_buffer("seen", torch.zeros(()))
    with pytest.raises(UserError, match="writes to 'seen'"):
        lower(model, torch.randn(2, 3))
    assert model.seen == 0


def test_models_and_examples_must_be_float32():
    with pytest.raises(UserError, match=r"0.weight of the model is torch.float64"):
        lower(nn.Sequential(nn.Linear(3, 2)).double(), torch.randn(2, 3))
    with pytest.raises(UserError, match="input 0 of the example is torch.float16"):
        lower(nn.Linear(3, 2), torch.randn(2, 3).half())
    with pytest.raises(UserError, match="needs the batch first"):
        lower(nn.Linear(3, 2), torch.randn(3))
    with pytest.raises(UserError, match="no inputs"):
        lower(nn.Linear(3, 2), [])
    with pytest.raises(UserError, match="is no torch.nn.Module"):
        lower(lambda x: x, torch.randn(2, 3))
    with pytest.raises(UserError, match="cannot follow Linear"):
        lower(nn.Linear(3, 2), torch.randn(2, 4))


def test_a_forward_that_depends_on_more_than_its_inputs_is_noticed():
    calls = []

    def growing(s, x):
        calls.append(0)
        return x * len(calls)

    with pytest.raises(UserError, match="differs from the model's"):
        lower(Odd(growing), torch.randn(2, 3))

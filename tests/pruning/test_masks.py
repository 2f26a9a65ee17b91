"""Pruned weights stay exactly zero, and the survivors train as if they were alone."""

import copy
import pickle

import pytest
import torch
from torch import nn

from thrifty.errors import UserError
from thrifty.pruning import Budget, Masks, apply, cut, freeze, masks, of_zeros, prune

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4),
    "nesterov": lambda p: torch.optim.SGD(
        p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4
    ),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=5e-4),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=5e-2),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 12),
        nn.ReLU(),
        nn.Linear(12, 3),
    )


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 1, 8, 8, generator=generator), torch.randint(
        0, 3, (8,), generator=generator
    )


def step(model, optimizer, number, clip=None):
    inputs, labels = batch(number)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs), labels).backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()


def weights_only_of(model) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.dim() > 1]


def survivors_alone(model, found, optimizer, name, steps, clip):
    """The reference: an optimizer that owns nothing but the surviving weights, with history."""
    named = dict(model.named_parameters())
    small = {
        n: nn.Parameter(p.detach()[found[n]].clone()) if n in found else p for n, p in named.items()
    }
    alone = OPTIMIZERS[name](list(small.values()))
    state = copy.deepcopy(optimizer.state_dict())
    for i, n in enumerate(named):
        for key, value in state["state"].get(i, {}).items():
            if isinstance(value, torch.Tensor) and n in found and value.shape == named[n].shape:
                state["state"][i][key] = value[found[n]].clone()
    alone.load_state_dict(state)
    for number in steps:
        with torch.no_grad():
            for n, mask in found.items():
                named[n].zero_()
                named[n][mask] = small[n]
        inputs, labels = batch(number)
        model.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        for n, mask in found.items():
            small[n].grad = named[n].grad[mask].clone()
        if clip is not None:
            nn.utils.clip_grad_norm_(list(small.values()), clip)
        alone.step()
    with torch.no_grad():
        for n, mask in found.items():
            named[n].zero_()
            named[n][mask] = small[n]


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_survivors_train_as_if_they_were_alone(name, clip):
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    for number in range(10):
        step(model, optimizer, number)
    found = cut(model, "magnitude", 0.8)
    reference, state = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
    history = OPTIMIZERS[name](reference.parameters())
    history.load_state_dict(state)

    with freeze(optimizer, found):
        for number in range(10, 40):
            step(model, optimizer, number, clip)
    survivors_alone(reference, found, history, name, range(10, 40), clip)

    for (n, ours), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        if n in found:
            assert bool((ours[~found[n]].view(torch.int32) == 0).all()), (
                "a pruned weight is not +0.0"
            )
        if clip is None:
            assert torch.equal(ours, theirs), n
        else:  # the norm adds the same squares in another order
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_zeros_stay_zero_for_a_hundred_steps_and_move_again_when_let_go(name):
    model = network()
    found = prune(model, "magnitude", Budget(0.9))
    optimizer = OPTIMIZERS[name](model.parameters())
    handle = freeze(optimizer, found)
    for number in range(100):
        step(model, optimizer, number)
    assert of_zeros(model).sparsity >= found.sparsity == pytest.approx(0.9, abs=1e-3)
    assert all(bool((p[~found[n]] == 0).all()) for n, p in model.named_parameters() if n in found)
    handle.remove()
    for number in range(5):
        step(model, optimizer, number)
    assert of_zeros(model).sparsity < found.sparsity


def test_a_diverged_weight_is_still_cleared():
    model = network()
    found = prune(model, "magnitude", 0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with freeze(optimizer, found):
        for p in model.parameters():
            p.grad = torch.full_like(p, float("nan"))
        optimizer.step()
    assert all(bool((p[~found[n]] == 0).all()) for n, p in model.named_parameters() if n in found)


def test_a_masked_model_is_copied_saved_and_compiled_like_any_other():
    model = network()
    names = list(model.state_dict())
    found = prune(model, "magnitude", 0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    freeze(optimizer, found)
    step(model, optimizer, 0)
    twin = copy.deepcopy(model)
    assert list(model.state_dict()) == names
    fresh = network()
    fresh.load_state_dict(model.state_dict())
    exported = torch.export.export(twin.eval(), (batch(0)[0],)).module()
    torch.testing.assert_close(exported(batch(0)[0]), fresh.eval()(batch(0)[0]))


def test_a_compiled_model_trains_with_its_zeros_held():
    model = network()
    found = prune(model, "magnitude", 0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    freeze(optimizer, found)
    compiled = torch.compile(model, backend="aot_eager")
    for number in range(3):
        step(compiled, optimizer, number)
    assert all(bool((p[~found[n]] == 0).all()) for n, p in model.named_parameters() if n in found)


def test_half_precision_and_channels_last_weights_are_held():
    model = network().to(torch.bfloat16).to(memory_format=torch.channels_last)
    found = prune(model, "magnitude", 0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with freeze(optimizer, found):
        for number in range(3):
            inputs, labels = batch(number)
            nn.functional.cross_entropy(model(inputs.bfloat16()).float(), labels).backward()
            optimizer.step()
    assert all(bool((p[~found[n]] == 0).all()) for n, p in model.named_parameters() if n in found)


def test_masks_survive_a_file_bit_for_bit(tmp_path):
    found = cut(network(), "random", 0.7)
    masks.save(found, tmp_path / "m.safetensors")
    again = masks.load(tmp_path / "m.safetensors")
    assert all(torch.equal(found[n], again[n]) for n in found)
    assert list(again) == list(found)
    assert (tmp_path / "m.safetensors").stat().st_size < sum(
        m.numel() for m in found.values()
    ) / 8 + 1000


def test_masks_can_be_pickled_and_copied_without_their_model():
    found = cut(network(), "magnitude", 0.7)
    for other in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert other.model is None
        assert other.sparsity == found.sparsity


def test_masks_of_a_file_need_a_model_or_named_parameters():
    model = network()
    found = copy.deepcopy(cut(model, "magnitude", 0.7))
    with pytest.raises(UserError, match="call freeze\\(optimizer, masks, model\\)"):
        freeze(torch.optim.SGD(model.parameters(), lr=0.1), found)
    freeze(torch.optim.SGD(model.parameters(), lr=0.1), found, model).remove()
    freeze(torch.optim.SGD(model.named_parameters(), lr=0.1), found).remove()


def test_an_optimizer_of_another_model_is_refused():
    model = network()
    found = cut(model, "magnitude", 0.7)
    with pytest.raises(UserError, match="the optimizer does not own 0.weight"):
        freeze(torch.optim.SGD(network().parameters(), lr=0.1), found)


def test_masks_that_do_not_fit_are_listed():
    with pytest.raises(
        UserError, match=r"0.weight \[2\] on \[4, 1, 3, 3\]; nope \[1\] names no parameter"
    ):
        apply(network(), {"0.weight": torch.ones(2).bool(), "nope": torch.ones(1).bool()})


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 100])
def test_a_damaged_file_of_masks_is_refused(tmp_path, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="m.safetensors: not a whole safetensors file"):
        masks.load(path)


def test_a_file_without_masks_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(3)}, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="holds no masks"):
        masks.load(tmp_path / "m.safetensors")
    save_file(
        {"a": torch.ones(1, dtype=torch.uint8)},
        tmp_path / "l.safetensors",
        {"thrifty.masks": '{"a": [99]}'},
    )
    with pytest.raises(UserError, match="do not hold a mask"):
        masks.load(tmp_path / "l.safetensors")


def test_they_can_be_handed_to_torchs_own_pruning():
    model = network()
    found = prune(model, "magnitude", 0.9)
    before = model(batch(0)[0])
    masks.to_torch(model, found)
    assert "0.weight_orig" in model.state_dict()
    torch.testing.assert_close(model(batch(0)[0]), before)


def test_masks_show_themselves():
    found = Masks({"a.weight": torch.tensor([[True, False], [False, False]])})
    assert found.to_rows() == [{"layer": "a.weight", "kept": 1, "weights": 4, "sparsity": 0.75}]
    assert "a.weight" in found._repr_html_()
    assert repr(found) == "Masks(1 layers, 1 weights kept, sparsity 0.7500)"

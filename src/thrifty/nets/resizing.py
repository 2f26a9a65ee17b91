"""Other sizes for the tensors of a module, and the numbers beside them that must agree."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

from torch import Tensor, nn

HEADS = ("num_heads", "heads", "n_head", "n_heads", "nhead", "num_attention_heads")
WIDTHS = ("attn_dim", "inner_dim", "all_head_size", "qkv_dim", "dim_attn", "inner_size")

Shape = tuple[int, ...]


class Narrowable(nn.Module):
    """A module that loses channels in a way of its own, and says which tensors it can have."""

    may_be_empty: ClassVar[tuple[str, ...]] = ()
    """Names of tensors of which nothing may be left."""
    follows: ClassVar[Mapping[str, tuple[str, int]]] = {}
    """Buffer -> the tensor and dimension whose indices it has one number for, which goes along."""
    followed: bool = False
    """Whether channels are being followed: a forward must show then what buffers pick from others,
    be it all in their order."""

    def fault(self, tensors: Mapping[str, Tensor]) -> str | None:
        """What is wrong with these tensors of a file, by their names in the module; or nothing."""
        return None

    def settle(self) -> None:
        """In place: what new sizes or numbers of tensors, which are in already, ask of others."""


def may_be_empty(model: nn.Module) -> set[str]:
    """Names of tensors of ``model`` of which nothing may be left."""
    return {
        f"{path}.{leaf}".lstrip(".")
        for path, module in model.named_modules()
        if isinstance(module, Narrowable)
        for leaf in module.may_be_empty
    }


def faults(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """What modules of ``model`` find wrong with ``tensors`` of a file, a line a module."""
    for path, module in model.named_modules():
        if isinstance(module, Narrowable):
            prefix = f"{path}." if path else ""
            own = {n[len(prefix) :]: x for n, x in tensors.items() if n.startswith(prefix)}
            why = module.fault(own)
            if why is not None:
                yield f"{path or type(module).__name__}: {why}"


def resize(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """In place: these parameters and buffers instead of those of the same names.

    Layers are told of their new sizes: channels and groups of convolutions, features of linear
    layers, of embeddings and of norms.  A tensor with several names is replaced under all.  A
    bias that was absent may be given.
    """
    owners = _owners(model)
    before = {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor)
    }
    for name, tensor in tensors.items():
        parameter: nn.Parameter | None = None
        for module, leaf in owners.get(name) or [_holder(model, name)]:
            old = getattr(module, leaf, None)
            if leaf in module._buffers:
                module._buffers[leaf] = tensor
                continue
            if parameter is None:
                grad = old.requires_grad if isinstance(old, nn.Parameter) else True
                parameter = nn.Parameter(tensor, requires_grad=grad)
            module.register_parameter(leaf, parameter)
    for name, module in model.named_modules():
        if name in before and isinstance(module.weight, Tensor):
            mend(module, before[name])
    settle(model)


def settle(model: nn.Module) -> None:
    """In place: let the modules of ``model`` see to what tensors that came in ask of others."""
    for module in model.modules():
        if isinstance(module, Narrowable):
            module.settle()


def _owners(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Name -> every module and attribute that holds that very tensor."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    names: dict[str, int] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for leaf, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                held = places.setdefault(id(tensor), [])
                if (module, leaf) not in held:
                    held.append((module, leaf))
                names[f"{prefix}.{leaf}" if prefix else leaf] = id(tensor)
    return {name: places[number] for name, number in names.items()}


def _holder(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def mend(module: nn.Module, before: Shape) -> None:
    """In place: make the numbers of a layer agree with its weight, which had shape ``before``."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    now = tuple(weight.shape)
    if now == before:
        return
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.groups > 1:
            module.groups = now[0] // (before[0] // module.groups)
        ins, outs = now[1] * module.groups, now[0]
        if module.transposed:
            ins, outs = now[0], now[1] * module.groups
        module.in_channels, module.out_channels = ins, outs
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = now
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = now[0]
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = module.num_groups * now[0] // module.num_channels
        module.num_channels = now[0]
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = now
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = now
    elif isinstance(module, nn.PReLU):
        module.num_parameters = now[0]


def misfits(model: nn.Module, shapes: Mapping[str, Shape]) -> Iterator[str]:
    """Why single layers of ``model`` cannot have tensors of these shapes, a line a layer.

    Whether layers go with each other is not looked at.
    """
    for path, module in model.named_modules(remove_duplicate=False):
        held = [*module._parameters.items(), *module._buffers.items()]
        before = {leaf: tuple(x.shape) for leaf, x in held if x is not None}
        prefix = f"{path}." if path else ""
        now = {
            leaf: shapes.get(prefix + leaf, before.get(leaf))
            for leaf, _ in held
            if leaf in before or prefix + leaf in shapes
        }
        if now != before:
            why = _misfit(module, before, {leaf: s for leaf, s in now.items() if s is not None})
            if why is not None:
                yield f"{path or type(module).__name__}: {why}"


def _misfit(module: nn.Module, before: Mapping[str, Shape], now: Mapping[str, Shape]) -> str | None:
    old, new = before.get("weight"), now.get("weight")
    if isinstance(module, nn.RNNBase):
        return "a recurrent layer has the size it was built with"
    if isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm):
        sizes = {shape for shape in now.values() if shape}
        if len(sizes) > 1:
            return f"the tensors of a norm have one shape, and these {sorted(sizes)}"
    if old is None or new is None:
        return None
    if isinstance(module, nn.GroupNorm) and module.num_groups * new[0] % module.num_channels:
        return f"{new[0]} channels make no whole groups"
    outs = new[0]
    if isinstance(module, nn.modules.conv._ConvNd):
        if old[2:] != new[2:]:
            return f"the kernel was {old[2:]} and is {new[2:]}"
        each = old[0] // module.groups
        if module.groups > 1 and new[0] % each:
            return f"{new[0]} rows make no whole groups of {each}"
        if module.transposed:
            outs = new[1] * (new[0] // each if module.groups > 1 else 1)
    if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
        bias = now.get("bias")
        if bias is not None and bias != (outs,):
            return f"it has {outs} outputs and a bias of shape {bias}"
    return None


def reheaded(module: nn.Module, before: int, now: int, size: int) -> dict[str, int]:
    """In place: ``now`` heads of ``size`` where the numbers of a module said ``before``.

    Returns:
        What was changed, attribute to number.
    """
    changed = {}
    for names, old, new in ((HEADS, before, now), (WIDTHS, before * size, now * size)):
        for name in names:
            if vars(module).get(name) == old and old != new:
                changed[name] = new
    for name, value in changed.items():
        setattr(module, name, value)
    return changed

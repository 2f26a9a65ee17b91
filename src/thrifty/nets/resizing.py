"""Other sizes for the tensors of a module, and the numbers beside them that must agree."""

from collections.abc import Mapping

from torch import Tensor, nn

HEADS = ("num_heads", "heads", "n_head", "n_heads", "nhead", "num_attention_heads")
WIDTHS = ("attn_dim", "inner_dim", "all_head_size", "qkv_dim", "dim_attn", "inner_size")


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
        for module, leaf in owners.get(name) or [_holder(model, name)]:
            old = getattr(module, leaf, None)
            grad = old.requires_grad if isinstance(old, nn.Parameter) else True
            if leaf in module._buffers:
                module._buffers[leaf] = tensor
            else:
                module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=grad))
    for name, module in model.named_modules():
        if name in before and isinstance(module.weight, Tensor):
            mend(module, before[name])


def _owners(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Name -> every module and attribute that holds that very tensor."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    names: dict[str, int] = {}
    for prefix, module in model.named_modules(remove_duplicate=True):
        for leaf, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                places.setdefault(id(tensor), []).append((module, leaf))
                names[f"{prefix}.{leaf}" if prefix else leaf] = id(tensor)
    return {name: places[number] for name, number in names.items()}


def _holder(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def mend(module: nn.Module, before: tuple[int, ...]) -> None:
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
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = now[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = now[0]


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

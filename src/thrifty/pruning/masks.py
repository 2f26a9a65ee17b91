"""Masks are data beside a model: parameter name to a bool tensor, True where a weight is kept.

The model itself stays an ordinary model: its state dict keeps its names, it is copied, compiled
and saved like any other.  What keeps its zeros zero while it trains is :func:`freeze`.
"""

import json
import math
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.files import written

_BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}


class Masks(dict[str, Tensor]):
    """Parameter name -> bool tensor of the parameter's shape, True is kept.

    ``model`` is the network they were cut for, if it still lives; it is not copied or saved.
    """

    def __init__(
        self,
        masks: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]] = (),
        model: nn.Module | None = None,
    ):
        super().__init__(masks)
        self._model = weakref.ref(model) if model is not None else None

    @property
    def model(self) -> nn.Module | None:
        """The model these masks were made for, or ``None``."""
        return self._model() if self._model is not None else None

    @property
    def sparsity(self) -> float:
        """Share of the masked weights that are pruned."""
        total = sum(m.numel() for m in self.values())
        return 1.0 - self.kept / total if total else 0.0

    @property
    def kept(self) -> int:
        """Weights kept, over all masks."""
        return sum(int(m.sum()) for m in self.values())

    def counts(self) -> dict[str, list[int]]:
        """Parameter name -> [weights kept, weights]."""
        return {name: [int(m.sum()), m.numel()] for name, m in self.items()}

    def within(self, other: Mapping[str, Tensor]) -> bool:
        """True if whatever these keep, ``other`` keeps too."""
        return all(not bool((m & ~other[name]).any()) for name, m in self.items())

    def to_dict(self) -> dict[str, Any]:
        """Sparsity overall and by layer."""
        return {"sparsity": self.sparsity, "kept": self.kept, "layers": self.counts()}

    def to_rows(self) -> list[dict[str, Any]]:
        """A row a layer."""
        return [
            {"layer": n, "kept": k, "weights": t, "sparsity": 1 - k / t}
            for n, (k, t) in self.counts().items()
        ]

    def to_pandas(self) -> Any:
        """A row a layer, as a data frame (needs pandas)."""
        from thrifty.shown import Shown

        return Shown.to_pandas(self)  # type: ignore[arg-type]

    def _repr_html_(self) -> str:
        from thrifty.shown import html_table

        return html_table(self.to_rows())

    def __repr__(self) -> str:
        return f"Masks({len(self)} layers, {self.kept} weights kept, sparsity {self.sparsity:.4f})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Masks, (dict(self),))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Masks":
        return Masks({name: m.clone() for name, m in self.items()})


def named(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """The parameters that ``masks`` speak of.

    Raises:
        UserError: a mask names no parameter, or its shape differs; all such are listed.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    wrong = [
        f"{name} {list(mask.shape)} "
        + (f"on {list(parameters[name].shape)}" if name in parameters else "names no parameter")
        for name, mask in masks.items()
        if name not in parameters or parameters[name].shape != mask.shape
    ]
    if wrong:
        raise UserError(f"these masks do not fit {type(model).__name__}: {'; '.join(wrong[:8])}")
    return {name: parameters[name] for name in masks}


@torch.no_grad()
def apply(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """In place: set every pruned weight of ``model`` to exactly 0.0."""
    for name, parameter in named(model, masks).items():
        parameter.masked_fill_(~masks[name].to(parameter.device), 0.0)


def of_zeros(model: nn.Module) -> Masks:
    """The masks a model shows by itself: whatever is exactly zero counts as pruned."""
    from thrifty.pruning.layers import prunable

    return Masks({name: p.detach() != 0 for name, p in prunable(model).items()}, model)


def born(model: nn.Module) -> Masks | None:
    """The zeros a network brings along, which no method may revive; ``None`` if it has none."""
    found = of_zeros(model)
    return found if found.sparsity else None


class Frozen:
    """Pruned weights held at zero while an optimizer works; ends with :meth:`remove`."""

    def __init__(self, handles: list[Any]):
        self._handles = handles

    def remove(self) -> None:
        """Let the weights go: from now on they train like all others."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> "Frozen":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def freeze(
    optimizer: torch.optim.Optimizer, masks: Mapping[str, Tensor], model: nn.Module | None = None
) -> Frozen:
    """In place: hold the pruned weights at exactly 0.0 through every step of ``optimizer``.

    Gradients of pruned weights are cleared as soon as they are there, so that clipping by norm
    and norm-based optimizers see the survivors only; the weights are cleared after every step,
    so that momentum, weight decay and Adam's moments cannot revive them.  What the survivors
    become is bit for bit what an optimizer that owns only them would make of them.  Call it
    after the optimizer is made and the model is on its device.

    Args:
        optimizer: any torch optimizer over the parameters of the model.
        masks: of :func:`thrifty.prune`, or any mapping of parameter names to bool tensors.
        model: whose parameters the names are; not needed for masks that ``prune`` returned
            for a model that still lives, nor for an optimizer made from named parameters.

    Returns:
        A handle whose ``remove()`` ends it; also a context manager.

    Raises:
        UserError: the model cannot be told, masks do not fit, or a masked parameter is not
            in the optimizer.
    """
    parameters = _parameters(optimizer, masks, model)
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    strangers = [name for name, p in parameters.items() if id(p) not in owned]
    if strangers:
        raise UserError(
            f"the optimizer does not own {', '.join(strangers[:5])}; make it from the parameters "
            "of the model the masks were cut for (after moving or compiling it)"
        )
    bits = [(p, bit_mask(masks[name], p)) for name, p in parameters.items()]
    for parameter, mask in bits:
        clear(parameter.detach(), mask)
        for state in optimizer.state[parameter].values() if parameter in optimizer.state else ():
            if isinstance(state, Tensor) and state.shape == parameter.shape:
                clear(state, mask)

    def clear_weights(*_: object) -> None:
        for parameter, mask in bits:
            clear(parameter.detach(), mask)

    handles: list[Any] = [optimizer.register_step_post_hook(clear_weights)]
    for parameter, mask in bits:
        register: Any = parameter.register_post_accumulate_grad_hook
        handles.append(register(_gradient_hook(mask)))
    return Frozen(handles)


def bit_mask(mask: Tensor, like: Tensor) -> Tensor:
    """All bits set where kept and none where pruned, as integers with the layout of ``like``.

    AND with it gives +0.0 for a pruned weight whatever it was: a product with a 0/1 mask would
    leave -0.0, and NaN where an update diverged.
    """
    if like.dtype not in _BITS:
        raise UserError(f"weights of {like.dtype} cannot be frozen; float types can")
    out = torch.zeros_like(like, dtype=_BITS[like.dtype], requires_grad=False)
    return out.masked_fill_(mask.to(like.device), -1)


def clear(weights: Tensor, bits: Tensor) -> None:
    """In place: exactly +0.0 wherever ``bits`` has none set."""
    weights.view(bits.dtype).bitwise_and_(bits)


def _gradient_hook(mask: Tensor) -> Any:
    def hook(parameter: Tensor) -> None:
        if parameter.grad is not None:
            clear(parameter.grad, mask)

    return hook


def _parameters(
    optimizer: torch.optim.Optimizer, masks: Mapping[str, Tensor], model: nn.Module | None
) -> dict[str, nn.Parameter]:
    model = model if model is not None else getattr(masks, "model", None)
    if model is not None:
        return named(model, masks)
    found = {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group.get("param_names", ()), group["params"], strict=False)
    }
    missing = [name for name in masks if name not in found]
    if missing:
        raise UserError(
            f"whose parameter is {missing[0]}?  These masks know no living model; "
            "call freeze(optimizer, masks, model)"
        )
    return {name: found[name] for name in masks}


def save(masks: Mapping[str, Tensor], path: Path | str) -> None:
    """Write masks as safetensors, a bit a weight, whole or not at all."""
    packed = {name: _pack(mask) for name, mask in masks.items()}
    shapes = {name: list(mask.shape) for name, mask in masks.items()}
    with written(Path(path)) as temporary:
        save_file(packed, temporary, metadata={"thrifty.masks": json.dumps(shapes)})


def load(path: Path | str, model: nn.Module | None = None) -> Masks:
    """Read masks that :func:`save` wrote.

    Raises:
        UserError: the file is missing, damaged, or holds no masks.
    """
    from safetensors import safe_open

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file of masks")
    try:
        with safe_open(path, framework="pt") as file:
            shapes = json.loads((file.metadata() or {}).get("thrifty.masks", "null"))
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole safetensors file: {error}") from None
    if not isinstance(shapes, dict) or set(shapes) != set(tensors):
        raise UserError(f"{path}: holds no masks of thrifty")
    return Masks({n: _unpack(tensors[n], shapes[n], f"{path}: {n}") for n in shapes}, model)


def _pack(mask: Tensor) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.packbits(mask.detach().cpu().contiguous().numpy().reshape(-1)))


def _unpack(packed: Tensor, shape: Any, where: str) -> Tensor:
    import numpy as np

    good = isinstance(shape, list) and all(isinstance(n, int) and n >= 0 for n in shape)
    size = math.prod(shape) if good else -1
    if packed.dtype != torch.uint8 or packed.dim() != 1 or packed.numel() != -(-size // 8):
        raise UserError(f"{where}: {packed.numel()} bytes of bits do not hold a mask of {shape}")
    bits = np.unpackbits(packed.numpy(), count=size).astype(bool)
    return torch.from_numpy(bits).reshape(shape)


def to_torch(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """In place: hand the masks over to ``torch.nn.utils.prune``, for tools that read those.

    It renames ``weight`` to ``weight_orig`` and ``weight_mask`` in the state dict.
    """
    from torch.nn.utils import prune as torch_prune

    modules = dict(model.named_modules())
    hand_over: Any = torch_prune.custom_from_mask
    for name, mask in masks.items():
        holder, _, leaf = name.rpartition(".")
        hand_over(modules[holder], leaf, mask)
    return model

"""What is known about one prunable layer: its weight, and the evidence a criterion asked for."""

from typing import NamedTuple

from torch import Tensor, nn

from thrifty.errors import UserError


class Layer(NamedTuple):
    """One prunable tensor and the evidence about it; evidence nobody asked for is ``None``.

    A NamedTuple, so that ``torch.vmap`` maps a criterion over a stacked population as it is.
    """

    weight: Tensor
    """(out, in, *kernel)"""
    grad: Tensor | None = None
    """Mean gradient of the loss over the data, the shape of ``weight``."""
    grad_square: Tensor | None = None
    """Mean over the batches of the squared gradient of the loss, the shape of ``weight``."""
    noise: Tensor | None = None
    """Independent uniform numbers in [0, 1), the shape of ``weight``, drawn from the seed."""


EVIDENCE = Layer._fields[1:]

_HOLDERS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
    nn.Bilinear,
    nn.MultiheadAttention,
    nn.RNNBase,
)


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The tensors that may be pruned, by parameter name, in the order of the modules.

    They are the parameters of two or more dimensions of convolutions, linear layers, attention
    and recurrent layers: no biases, no normalisation, no embeddings.  A tensor that several
    modules share is listed once, under its first name; one of which nothing is left is not.

    Raises:
        UserError: the model has none.
    """
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        if not isinstance(module, _HOLDERS):
            continue
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.dim() > 1 and parameter.numel() and id(parameter) not in seen:
                seen.add(id(parameter))
                found[name] = parameter
    if not found:
        kinds = ", ".join(sorted({type(m).__name__ for m in model.modules()})[:8])
        raise UserError(
            f"{type(model).__name__} has nothing to prune: no convolution, linear, attention or "
            f"recurrent layer holds its own weight (it has {kinds}); if the weights are "
            f"parametrized, remove the parametrization first"
        )
    return found

"""``thrifty export``: a network written for other programs."""

from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from thrifty.shown import columns, to_json
from thrifty.subjects import network, subject

if TYPE_CHECKING:
    from torch import nn

_output = Group("Output")
_flag = Parameter(negative="", show_default=False)

Json = Annotated[bool, _flag, Parameter("--json", help="Results as JSON.", group=_output)]


def export(
    model: str,
    /,
    *,
    to: str,
    out: Annotated[Path, Parameter(["--out", "-o"], group=_output)],
    data: str | None = None,
    shape: str | None = None,
    weights: str | None = None,
    masks: Path | None = None,
    json: Json = False,
) -> None:
    """Write MODEL for other programs: onnx, safetensors, torch_sparse or hf.

    ONNX is checked in onnxruntime against torch.  Example:
    ``thrifty export net.safetensors --to onnx -o net.onnx``,
    ``thrifty export resnet20 --weights resnet20.th --to hf -o resnet20-pruned``

    Parameters
    ----------
    model
        A network, as for ``thrifty prune``.
    to
        ``onnx`` (batch of any size), ``safetensors`` (dense), ``torch_sparse`` (a state dict with
        CSR and COO tensors; -o FILE.pt), ``hf`` (a folder with safetensors, config.json and a
        model card, to push to the Hub), or another format that thrifty writes.
    out
        The file, or for ``hf`` the folder.
    data
        Data, as for ``thrifty prune``; its inputs are the example, and the accuracy on its test
        inputs goes into the model card.
    shape
        Or the shape of one input, such as ``3x32x32``.
    weights
        File that fills the network (.safetensors, .xz, .pt, .pth, .th, .npz).
    masks
        File of masks, as ``thrifty.pruning.masks.save`` writes: what they cut is written as 0.
    """
    from thrifty.pack.exporting import check_path
    from thrifty.pack.exporting import export as write
    from thrifty.pruning.masks import apply, load

    check_path(out, to)
    if data is None and shape is None:
        net, example = network(model, weights), None  # a format that needs one draws it
    else:
        net, example = subject(model, data, shape, weights)
    chosen = None if masks is None else load(masks)
    if chosen is not None:
        apply(net, chosen)
    said = {**_known(model), **_accuracy(net, data if to == "hf" else None)}
    done = write(net, out, to, example=example, masks=chosen, metadata=said)
    if json:
        return print(to_json(done.to_dict()))
    print(f"{done.path}  {done.bytes:,} bytes")
    if done.facts:
        print(columns({name: _text(value) for name, value in done.facts.items()}))
    return None


def _known(model: str) -> dict[str, str]:
    """What the header of a file of ours says besides the network: what others measured."""
    from thrifty.nets import file_of, read_weights
    from thrifty.pack.contents import OURS

    file = file_of(model)
    if file is None or not file.name.lower().endswith((".safetensors", ".safetensors.zst")):
        return {}
    return {k: v for k, v in read_weights(file)[1].items() if k not in (*OURS, "format")}


def _accuracy(net: "nn.Module", data: str | None) -> dict[str, str]:
    if data is None:
        return {}
    from thrifty.data import load_data
    from thrifty.lab.measure import judge

    loaded = load_data(data)
    found = judge(net, loaded)
    told = f"{found.accuracy:.4f} on {len(loaded.test):,} test inputs of {_called(loaded.name)}"
    return {"accuracy": told}


def _called(data: str) -> str:
    """A data set without the place where it lies, which is nobody's business on the Hub.

    Example:
        >>> _called("parquet:DIR/cifar10?normalize=imagenet"), _called("digits?train=50")
        ('cifar10 (parquet)', 'digits')
    """
    kind, _, place = data.partition("?")[0].partition(":")
    return f"{PurePath(place).name} ({kind})" if PurePath(place).name else kind


def _text(value: object) -> str:
    return f"{value:.2g} of the largest output" if isinstance(value, float) else str(value)

"""The configuration and the model card of a network, with no figure that was not counted."""

import json
from collections.abc import Mapping
from typing import Any

import zstandard
from torch import Tensor, nn

from thrifty.errors import UserError
from thrifty.nets.macs import count_macs
from thrifty.pack.contents import Contents
from thrifty.shown import printable

LEVEL = 9
MOST_CHARACTERS = 500
"""Of an entry of the metadata; a longer one is for programs and not for a card."""


def config(held: Contents) -> dict[str, Any]:
    """What ``config.json`` holds: how the network is built, and counts of its weights.

    A network of timm that is whole has timm's own keys too, under which timm finds it on the Hub.
    """
    header = json.loads(held.metadata["thrifty"])
    shape = header.get("shape")
    result: dict[str, Any] = {
        "library_name": "thrifty",
        "model": header.get("model"),
        "classes": header.get("classes"),
        "shape": shape,
        "channels_removed": "shrunk" in header,
        **_counts(held.tensors, held.model),
    }
    macs = _macs(held.model, shape)
    if macs is not None:
        result["macs"] = macs
    name = str(header.get("model") or "").partition("?")[0]
    if name.startswith("timm:") and "shrunk" not in header:
        result["architecture"] = name.removeprefix("timm:")
        if header.get("classes"):
            result["num_classes"] = header["classes"]
    return result


def _counts(tensors: Mapping[str, Tensor], model: nn.Module | None) -> dict[str, Any]:
    names = None if model is None else {n for n, _ in model.named_parameters()}
    weights = {n: x for n, x in tensors.items() if names is None or n in names}
    layers = [x for x in weights.values() if x.dim() > 1]
    zeros, places = sum(int((x == 0).sum()) for x in layers), sum(x.numel() for x in layers)
    params = sum(x.numel() for x in weights.values())
    nonzero = sum(int(x.count_nonzero()) for x in weights.values())
    return {
        "parameters": params,
        "nonzero": nonzero,
        "sparsity": round(zeros / places, 6) if places else 0.0,
    }


def _macs(model: nn.Module | None, shape: list[int] | None) -> int | None:
    if model is None or not shape:
        return None
    try:
        return count_macs(model, tuple(shape))
    except UserError:  # a shape that the network only claims to take
        return None


def card(held: Contents, about: Mapping[str, Any], content: bytes) -> str:
    """The model card, Markdown with the header that the Hub reads.

    Args:
        held: what is written; its metadata are listed.
        about: the configuration, see :func:`config`.
        content: the safetensors file, of which the size as it is and under zstd are told.
    """
    name = about["model"] or type(held.model).__name__
    packed = len(zstandard.ZstdCompressor(level=LEVEL).compress(content))
    rows = {
        "parameters": f"{about['parameters']:,}",
        "not zero": f"{about['nonzero']:,}",
        "zeros among the weights of layers": f"{about['sparsity']:.2%}",
        "model.safetensors": f"{len(content):,} bytes",
        f"the same under zstd -{LEVEL}": f"{packed:,} bytes",
    }
    if "macs" in about:
        rows["multiply-adds of one input, zeros included"] = f"{about['macs']:,}"
    measured = {
        _cell(key): _cell(value)
        for key, value in held.metadata.items()
        if key not in ("thrifty", "format") and len(value) <= MOST_CHARACTERS
    }
    parts = [
        _front(about),
        f"# {_cell(str(name))}{', pruned' if _is_pruned(about) else ''}",
        _summary(about),
        _table(rows),
        "## What was said of it when it was written\n\n" + _table(measured) if measured else "",
        _usage(about),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _is_pruned(about: Mapping[str, Any]) -> bool:
    return bool(about["channels_removed"] or about["sparsity"] > 0)


def _summary(about: Mapping[str, Any]) -> str:
    if not _is_pruned(about):
        return "A dense network, written by thrifty."
    removed = " Channels were removed from it." if about["channels_removed"] else ""
    zeros = " Its zeros are kept as zeros in dense tensors." if about["sparsity"] > 0 else ""
    return f"A network pruned with thrifty.{removed}{zeros}"


def _front(about: Mapping[str, Any]) -> str:
    shape = about["shape"]
    lines = ["library_name: thrifty", "tags:", "- pruning", "- sparse"]
    if shape and len(shape) == 3 and about["classes"]:
        lines.append("pipeline_tag: image-classification")
    return "\n".join(["---", *lines, "---"])


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---:|", *(f"| {k} | {v} |" for k, v in rows.items())])


def _cell(text: str) -> str:
    """Text that ends no cell, line or code of a Markdown table."""
    return printable(text).replace("|", "\\|").replace("<", "&lt;")


def _usage(about: Mapping[str, Any]) -> str:
    if about["model"]:
        return (
            "## Use\n\n```python\nimport thrifty\n\n"
            'model = thrifty.resolve("FOLDER")  # this folder, downloaded\n```'
        )
    return (
        "## Use\n\n```python\nimport safetensors.torch\n\n"
        'model.load_state_dict(safetensors.torch.load_file("model.safetensors"))\n```'
    )

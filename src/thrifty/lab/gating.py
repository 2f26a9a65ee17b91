"""The gates that a recipe names: what they score, made for a network, and what they said.

What a trained or measured gate said lies beside the network, as ``gates.safetensors``: the scores
by the name of a weight, and in its metadata which gate it was.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from thrifty.channels.finding import groups as find_groups
from thrifty.channels.groups import Groups
from thrifty.data import Data
from thrifty.errors import UserError
from thrifty.files import written
from thrifty.pruning.gates import GATES, Gate, gate, has_own_units
from thrifty.registry import Spec, parse_spec

if TYPE_CHECKING:
    from thrifty.lab.store import Step

Unit = Literal["own", "channel", "weight"]

GATE_SCORES = "gates.safetensors"
"""Scores of gates, in the folder of the network that was trained with them or measured."""


def unit_of(spec: str) -> Unit:
    """What the gate of that name scores: units that it removes itself, channels, or weights."""
    if has_own_units(spec):
        return "own"
    found = GATES.get(parse_spec(spec).name)
    return "weight" if getattr(found, "unit", "channel") == "weight" else "channel"


def example_of(data: Data, device: torch.device) -> Tensor:
    """Two inputs as the network takes them."""
    return data.prepare(data.test.inputs[:2].to(device))


def gate_of(spec: str, groups: Groups | None = None, **given: Any) -> Gate:
    """The gate of that name and options for a network with those groups.

    ``bn_scale`` becomes ``channel_scale`` where no channel has a scale of its own.

    Args:
        given: fills options that the spec leaves open, if the gate has them.
    """
    asked = parse_spec(spec)
    if asked.name == "bn_scale" and groups and not any(g.of("scale") for g in groups.free):
        asked = Spec("channel_scale", asked.options)
    return gate(asked, groups=groups, **given)


def gate_for(
    spec: str, model: nn.Module, data: Data, keep: Sequence[str] = (), epochs: int | None = None
) -> Gate:
    """The gate of that name for ``model``, which is to be trained on ``data``; not attached yet.

    Args:
        keep: patterns of layers that stay whole.
        epochs: of the training, for gates that ask.
    """
    unit = unit_of(spec)
    given: dict[str, Any] = {"inputs": len(data.train), "epochs": epochs}
    if unit == "channel":
        device = next(model.parameters()).device
        return gate_of(spec, find_groups(model, example_of(data, device), keep), **given)
    return gate_of(spec, keep=tuple(keep) if keep and unit == "weight" else None, **given)


def cutoff_of(spec: str, threshold: float) -> float:
    """The score above which units stay, by the gate of that name.

    Raises:
        UserError: no threshold of this gate can be that, or it has none.
    """
    return gate_of(spec, Groups(()), inputs=1, epochs=1).cutoff(threshold)


def wrong_thresholds(specs: Mapping[str, str | None], thresholds: Sequence[float]) -> list[str]:
    """What is wrong with thresholds for methods, all of it.

    Args:
        specs: method -> its gate, ``None`` if it has none.
    """
    found: dict[str, None] = {}
    for method, spec in specs.items():
        if spec is None:
            found[
                f"{method} has no gate, so that there is nothing to hold against a threshold; give "
                f"sparsity, or a method with a gate, such as highway or variational"
            ] = None
            continue
        for threshold in thresholds:
            try:
                cutoff_of(spec, threshold)
            except UserError as error:
                found[str(error)] = None
    return list(found)


def unmeasured(spec: str) -> str:
    """The spec of a gate that only read a network and did not train with it: ``strength=0``."""
    asked = parse_spec(spec)
    return str(Spec(asked.name, {**asked.options, "strength": 0}))


def save_scores(found: Mapping[str, Tensor], folder: Path, about: Mapping[str, str]) -> None:
    """Write the scores of gates beside the network they were read in.

    Args:
        about: ``gate``, ``method``, ``seed`` and ``title``, all text.
    """
    tensors = {k: v.detach().cpu().float().contiguous() for k, v in found.items()}
    with written(folder / GATE_SCORES) as temporary:
        save_file(tensors, temporary, metadata=dict(about))


def read_scores(step: "Step | None") -> dict[str, Tensor] | None:
    """What :func:`save_scores` wrote, if it did.

    Raises:
        UserError: the file is damaged.
    """
    path = None if step is None else step.folder / GATE_SCORES
    if path is None or not path.is_file():
        return None
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read: {error}; remove {path.parent} and run again"
        ) from None


def gate_beside(network: Path | None) -> str | None:
    """The gate that the network in this file was trained with or read by, if that is told."""
    path = None if network is None else network.parent / GATE_SCORES
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get("gate")
    except (SafetensorError, OSError, json.JSONDecodeError):
        return None
    return said if isinstance(said, str) and len(said) < 1000 else None

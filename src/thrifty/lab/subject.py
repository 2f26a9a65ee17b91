"""The network that a study measures: a copy on its device, what it is called, what names it."""

import copy
import hashlib
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from thrifty.cores import cores
from thrifty.data import Data
from thrifty.lab.steps import pick_device
from thrifty.nets import NETS, architecture_of, count_macs, file_of, resolve
from thrifty.registry import parse_spec
from thrifty.training.loop import derive

LARGE_MACS = 5_000_000
"""Multiply-adds; a network of more uses every core, as does one on large inputs."""
LARGE_INPUT = 50_000
"""Numbers of one input; more are recalibrated on in small batches, for memory."""
JUDGED = 300_000
"""Numbers in a batch that is judged: ResNet-20 does 97 pictures at 0.55 of the time for 500."""


def network_of(
    model: str | Path | nn.Module,
    weights: str | Path | None,
    data: Data,
    seed: int,
    device: str | None,
) -> nn.Module:
    """A network of our own to change, on its device; one that comes without weights is drawn."""
    if isinstance(model, nn.Module):
        place = next(model.parameters(), torch.zeros(0)).device if device is None else None
        found = resolve(copy.deepcopy(model), weights=weights)
        return found.to(place or pick_device(device or "auto")).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "init"))
        found = resolve(model, weights=weights, classes=data.classes, shape=data.shape)
    return found.to(pick_device(device or "auto")).eval()


def fitting_threads(model: nn.Module, data: Data) -> int:
    """1 for a small network, which more threads do not make faster, else every core."""
    large = math.prod(data.shape) > LARGE_INPUT or count_macs(model, data.shape) > LARGE_MACS
    return cores() if large else 1


def label_of(model: str | Path | nn.Module, network: nn.Module) -> str:
    """What a network is called: as it was named, or by its architecture or class."""
    if not isinstance(model, nn.Module):
        return str(model)
    found = architecture_of(network)
    return found.model if found else type(model).__name__


def untrained(model: str | Path | nn.Module, weights: str | Path | None) -> bool:
    """Whether a network is surely one with freshly drawn weights."""
    if isinstance(model, nn.Module) or weights is not None or file_of(model) is not None:
        return False
    spec = parse_spec(str(model))
    zoo = spec.name.startswith(("torchvision:", "timm:"))
    brings = spec.options.get("weights") or spec.options.get("pretrained")
    return spec.name in NETS or (zoo and not brings)


def digest_of(model: nn.Module) -> str:
    """16 hex digits that name what a network computes: its kind, tensors, and their names."""
    sha = hashlib.sha256(type(model).__qualname__.encode())
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            sha.update(raw.numpy().data)
    return sha.hexdigest()[:16]


def judge_batch(data: Data) -> int:
    """Inputs at a time when a network is judged."""
    return max(8, min(500, JUDGED // math.prod(data.shape)))

"""Measure a network: accuracy, agreement with its parent, zeros, multiply-adds, bytes, time."""

import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thrifty.data import Data, load_data
from thrifty.errors import UserError
from thrifty.nets import count_macs
from thrifty.pruning.layers import prunable
from thrifty.shown import Shown


@dataclass(frozen=True, kw_only=True)
class Measurement(Shown):
    """What a network does and what it takes; shares are 0 to 1, zeros are counted."""

    accuracy: float
    loss: float
    agreement: float | None = None
    """Share of test inputs on which it and ``original`` give the same class."""
    sparsity: float
    """Zeros among the prunable weights."""
    sparsity_all: float
    """Zeros among all parameters."""
    sparsity_conv: float | None = None
    """Zeros among the weights of convolutions."""
    params: int
    prunable: int
    nonzero: int
    macs: int
    macs_nonzero: int
    latency_us: float | None = None
    layers: dict[str, list[int]] = field(default_factory=dict)
    """Prunable tensor -> [weights that are not zero, weights]."""


@dataclass(frozen=True)
class Judged:
    """How a network does on test inputs."""

    accuracy: float
    loss: float
    predictions: NDArray[np.int32]


def measure(
    model: nn.Module,
    data: Data | str,
    original: nn.Module | None = None,
    *,
    latency: bool = False,
    batch: int = 500,
) -> Measurement:
    """Accuracy, zeros and costs of ``model`` on the test inputs of ``data``; changes nothing.

    Args:
        model: gives logits (n, classes) for inputs (n, *data.shape).
        data: a data set or its name, such as ``"digits"``.
        original: a network to agree with, such as the dense parent.
        latency: time one input as well (:func:`latency_us` says how).
        batch: inputs at a time.
    """
    data = load_data(data)
    judged = judge(model, data, batch)
    agreement = None
    if original is not None:
        agreement = agree(judged.predictions, judge(original, data, batch).predictions)
    return Measurement(
        accuracy=judged.accuracy,
        loss=judged.loss,
        agreement=agreement,
        latency_us=latency_us(model, data) if latency else None,
        **costs(model, data.shape),
    )


@torch.inference_mode()
def judge(model: nn.Module, data: Data, batch: int = 500) -> Judged:
    """Class of every test input, accuracy, and mean cross entropy; in eval mode, put back after.

    Raises:
        UserError: the model does not take the data, or gives other than one logit a class.
    """
    device = next(model.parameters()).device
    training = {module: module.training for module in model.modules()}
    model.eval()
    lost = 0.0
    classes: list[Tensor] = []
    try:
        for start in range(0, len(data.test), batch):
            labels = data.test.labels[start : start + batch]
            outputs = run(
                model,
                _layout(model, data.prepare(data.test.inputs[start : start + batch].to(device))),
                data,
            )
            lost += float(
                nn.functional.cross_entropy(outputs.float(), labels.to(device), reduction="sum")
            )
            classes.append(outputs.argmax(1).cpu())
    finally:
        for module, mode in training.items():
            module.training = mode
    found = torch.cat(classes)
    right = int((found == data.test.labels).sum())
    return Judged(right / len(found), lost / len(found), found.numpy().astype(np.int32))


def run(model: nn.Module, inputs: Tensor, data: Data) -> Tensor:
    """Logits of a batch; what does not fit is said in the words of model and data."""
    try:
        outputs = model(inputs)
    except RuntimeError as error:
        raise UserError(
            f"{type(model).__name__} does not take inputs of {data.name}, which are "
            f"{list(data.shape)}: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or outputs.shape[1] < data.classes:
        got = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise UserError(
            f"{type(model).__name__} gives {got} for {len(inputs)} inputs of {data.name}; it must "
            f"give a logit for each of {data.classes} classes, [{len(inputs)}, {data.classes}]"
        )
    return outputs


def agree(ours: NDArray[np.int32], theirs: NDArray[np.int32]) -> float:
    """Share of inputs given the same class."""
    return float((ours == theirs).mean())


def costs(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """Parameters, zeros and multiply-adds, as the fields of a record.

    Multiply-adds come from torch's own counter.  Those with a weight that is not zero are found
    by taking from each convolution and linear layer the share of its weights that is zero.
    """
    weights = prunable(model)
    kept = {name: [int((p.detach() != 0).sum()), p.numel()] for name, p in weights.items()}
    everything = list(model.parameters())
    params = sum(p.numel() for p in everything)
    nonzero = sum(int((p.detach() != 0).sum()) for p in everything)
    conv = [kept[name] for name, p in weights.items() if p.dim() > 2]
    there = sum(total for _, total in kept.values())
    left = sum(count for count, _ in kept.values())
    macs = count_macs(model, shape)
    saved = sum(
        uses * (kept[name][1] - kept[name][0])
        for name, uses in weight_uses(model, shape).items()
        if name in kept
    )
    return {
        "sparsity": 1 - left / there,
        "sparsity_all": 1 - nonzero / params,
        "sparsity_conv": 1 - sum(k for k, _ in conv) / sum(t for _, t in conv) if conv else None,
        "params": params,
        "prunable": there,
        "nonzero": nonzero,
        "macs": macs,
        "macs_nonzero": macs - saved,
        "layers": kept,
    }


@torch.inference_mode()
def weight_uses(model: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """How often each weight of a layer multiplies for one input: its output positions."""
    uses: dict[str, int] = {}
    handles = []

    def counted(name: str, transposed: bool) -> Any:
        def hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            side = inputs[0] if transposed else output
            if isinstance(module, nn.Linear):
                times = output.numel() // output.shape[-1]
            else:
                times = side.numel() // side.shape[1]
            uses[name] = uses.get(name, 0) + times

        return hook

    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    for name, module in model.named_modules():
        if isinstance(module, (*convolutions, *transposed, nn.Linear)):
            hook = counted(f"{name}.weight" if name else "weight", isinstance(module, transposed))
            handles.append(module.register_forward_hook(hook))
    training = {module: module.training for module in model.modules()}
    parameter = next(model.parameters())
    try:
        model.eval()
        model(torch.zeros(1, *shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return uses


def latency_us(
    model: nn.Module, data: Data, batch: int = 1, seconds: float = 0.1, least: int = 20
) -> float:
    """Median time of one forward pass in eager torch, in microseconds, after a warm-up.

    Zeros do not make a dense runtime faster; this is what the network takes as it stands, on
    the threads torch has now.

    Args:
        batch: inputs a pass; the time is of the whole pass.
        seconds: how long to go on, at least ``least`` passes.
    """
    return statistics.median(_passes([model], data, batch, seconds, least)[0]) * 1e6


def latency_ratio(
    model: nn.Module, other: nn.Module, data: Data, batch: int = 1, seconds: float = 0.1
) -> float:
    """Median, over passes in turns, of the time of ``model`` over the time of ``other``.

    What else the machine does falls on both alike, so this holds where two times taken one
    after the other do not: those of one network differed by a factor of 2 beside other work.
    """
    ours, theirs = _passes([model, other], data, batch, seconds, 20)
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


@torch.inference_mode()
def _passes(
    models: Sequence[nn.Module], data: Data, batch: int, seconds: float, least: int
) -> list[list[float]]:
    """Seconds of forward passes of each model, all of them in turns."""
    device = next(models[0].parameters()).device
    inputs = _layout(models[0], data.prepare(data.test.inputs[:batch].to(device)))
    training = {module: module.training for model in models for module in model.modules()}
    times: list[list[float]] = [[] for _ in models]
    try:
        for model in models:
            model.eval()
            for _ in range(5):
                model(inputs)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times[0]) < least:
            for model, taken in zip(models, times, strict=True):
                _wait(device)
                start = time.perf_counter()
                model(inputs)
                _wait(device)
                taken.append(time.perf_counter() - start)
    finally:
        for module, mode in training.items():
            module.training = mode
    return times


def conditions(threads: int, device: str) -> dict[str, Any]:
    """Where and with what something was measured."""
    import thrifty

    return {
        "thrifty": thrifty.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "device": device,
        "threads": threads,
        "latency": "eager torch, batch 1: the dense parent's median time, times the median ratio "
        "to it of passes taken in turns, after all training",
    }


def _layout(model: nn.Module, inputs: Tensor) -> Tensor:
    """Inputs with channels last where the convolutions of the model are."""
    convolution = next((p for p in model.parameters() if p.dim() == 4 and p.shape[1] > 1), None)
    if inputs.dim() != 4 or convolution is None or convolution.is_contiguous():
        return inputs
    return inputs.contiguous(memory_format=torch.channels_last)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            lines: Mapping[str, str] = dict(
                line.split(":", 1) for line in file.read().splitlines() if ":" in line
            )
        names = [v.strip() for k, v in lines.items() if k.strip() == "model name"]
        return names[0] if names else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()

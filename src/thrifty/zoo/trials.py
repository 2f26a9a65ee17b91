"""Model zoos as they are published: a folder a trial of Ray Tune.

::

    EXPERIMENT/NN_tune_trainable_c0371_00017_17_seed=18_2021-07-01_16-59-53/
        params.json                          hyper-parameters
        result.json                          a line of figures an epoch; else progress.csv
        checkpoint_000050/checkpoints        a state dict of torch, a folder an epoch

Tensors are called ``module_list.0.weight`` and so on, by the places of layers among activations
and dropout; here they get the names of our network of the same form, after their shapes were
compared.  Twins by variational dropout have ``log_sigma2`` beside each weight: what the published
code sets to zero (log alpha >= 3) is cut here.  Residual networks come with the statistics of their
batch normalisation, under the names that they have here too.

References:
    Schuerholt et al., Model Zoos: A Dataset of Diverse Populations of Neural Network Models, 2022,
    https://arxiv.org/abs/2209.14764; https://github.com/ModelZoos/ModelZooDataset
"""

import csv
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thrifty.errors import UserError
from thrifty.nets.build import build
from thrifty.nets.resnet18 import STAGES
from thrifty.nets.zoo_cnn import ACTIVATIONS
from thrifty.sources.folders import natural
from thrifty.sources.unpickling import tensors_of, unpickled
from thrifty.zoo.folder import read_object

DEEPEST = 3
"""Folders below the one that is given in which trials are looked for."""
MOST_FIGURES = 1 << 26
"""Bytes of the longest file of figures."""
CUT = 3.0
"""log alpha from which the published code takes a weight for zero."""

CHECKPOINT = re.compile(r"checkpoint_(\d{1,6})")
NETWORKS = {"CNN": ("zoo_cnn_s", 28), "CNN2": ("zoo_cnn_m", 28), "CNN3": ("zoo_cnn_l", 32)}
"""What the published code calls them: our network, and the side of its inputs."""
LAYERS = ("conv1", "conv2", "conv3", "fc1", "fc2")

HYPER: Mapping[str, tuple[str, type]] = {
    "model::nlin": ("act", str),
    "model::dropout": ("dropout", float),
    "model::init_type": ("init", str),
    "optim::optimizer": ("optimizer", str),
    "optim::lr": ("lr", float),
    "optim::wd": ("weight_decay", float),
    "optim::momentum": ("momentum", float),
    "training::batchsize": ("batch", int),
    "seed": ("seed", int),
}
FIGURES = {
    "train_loss": "train_loss",
    "train_acc": "train_accuracy",
    "val_loss": "val_loss",
    "val_acc": "val_accuracy",
    "validation_loss": "val_loss",
    "validation_acc": "val_accuracy",
    "test_loss": "test_loss",
    "test_acc": "test_accuracy",
}
NOT_MEASURED = -999
"""What the published code writes for an epoch that was not trained."""


class Network(NamedTuple):
    """What a network is, as far as it is known, and how its tensors are called here."""

    model: str
    shape: tuple[int, ...] | None
    classes: int | None
    names: Mapping[str, str]


class Trial:
    """One folder of Ray Tune."""

    def __init__(self, folder: Path):
        self.folder, self.label = folder, folder.name
        self.checkpoints = dict(sorted(_checkpoints(folder)))
        self._figures: dict[int, dict[str, float]] | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its hyper-parameters, under their names.

        Raises:
            UserError: they cannot be read.
        """
        return _config(self.folder)

    @property
    def hyper(self) -> dict[str, Any]:
        """What it was trained with, under our names; ``None`` where it is not said."""
        found = {}
        for theirs, (ours, kind) in HYPER.items():
            found[ours] = _of_kind(self.config.get(theirs), kind)
        if found["act"] is not None:
            found["act"] = found["act"].replace("leakyrelu", "leaky_relu")
        return found

    @property
    def parent(self) -> int | None:
        """Number of the trial that a twin was made from, from the name of its folder."""
        try:
            place = str(self.config.get("training::init_checkpoint_path", ""))
        except UserError:
            return None
        found = re.search(r"_(\d{5})_\d+_", place)
        return int(found.group(1)) if found else None

    def figures(self, epoch: int) -> dict[str, float]:
        """What was measured at an epoch, under our names, as far as it is said."""
        if self._figures is None:
            self._figures = dict(_figures(self.folder))
        return self._figures.get(epoch, {})

    def read(self, epoch: int) -> dict[str, Tensor]:
        """The tensors of a checkpoint, by the names of the file.

        Raises:
            UserError: the file is damaged, would run code, or lies about its sizes.
        """
        path = self.checkpoints[epoch]
        return tensors_of(unpickled(path), path)

    def network(self, tensors: Mapping[str, Tensor]) -> Network:
        """Which of our networks has these tensors; one without a name if none has."""
        kind = str(self.config.get("model::type", "")).removesuffix("_ARD")
        own = {name: x for name, x in tensors.items() if "log_sigma2" not in name}
        plain = Network("", None, None, {name: name for name in own})
        if kind.lower() == "resnet18" and self.hyper["act"] in (None, "relu"):
            residual = _residual(own, self.hyper["dropout"])
            return residual if residual is not None and _fits(residual, own) else plain
        form, act = NETWORKS.get(kind), self.hyper["act"]
        if form is None or act not in ACTIVATIONS:
            return plain
        places = sorted({n.rpartition(".")[0] for n in own}, key=natural)
        known = {f"{place}.{part}" for place in places for part in ("weight", "bias")}
        if len(places) != len(LAYERS) or own.keys() != known:
            return plain
        ours = dict(zip(places, LAYERS, strict=True))
        names = {n: f"{ours[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}" for n in own}
        shape = (own[f"{places[0]}.weight"].shape[1:2].numel(), form[1], form[1])
        classes = own[f"{places[-1]}.weight"].shape[:1].numel()
        dropout = self.hyper["dropout"]
        share = f"&dropout={dropout:g}" if dropout and 0 < dropout < 1 else ""
        model = f"{form[0]}?act={act}{share}"
        found = Network(model, shape, classes, names)
        return found if _fits(found, own) else plain


def _residual(tensors: Mapping[str, Tensor], dropout: float | None) -> Network | None:
    """A ResNet-18 of these tensors, which have the names of torchvision's and so ours.

    Nothing in them tells the side of the inputs: 200 classes are Tiny-ImageNet's, of 64 pixels.
    """
    stem, head = tensors.get("conv1.weight"), tensors.get("fc.weight")
    if stem is None or head is None or stem.dim() != 4 or head.dim() != 2:
        return None
    wide, classes = stem.shape[0], head.shape[0]
    options = [f"width={wide / STAGES[0]:g}"] if wide != STAGES[0] else []
    options += [f"dropout={dropout:g}"] if dropout and 0 < dropout < 1 else []
    side = 64 if classes == 200 else 32
    spec = "resnet18_cifar" + ("?" + "&".join(options) if options else "")
    names = {name: name for name in tensors}
    return Network(spec, (stem.shape[1], side, side), classes, names)


def find_trials(place: Path) -> list[Path]:
    """Folders of trials at ``place`` or below it, as people count."""
    return sorted(_trials(place, DEEPEST), key=lambda p: natural(str(p)))


def cut(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bool, True where a weight of a twin by variational dropout is kept, by the file's names.

    Biases of convolutions are cut too, those of linear layers never, as in the published code.
    """
    masks = {}
    for name, x in tensors.items():
        layer, _, part = name.rpartition(".")
        weight = tensors.get(f"{layer}.weight")
        noise = tensors.get(f"{layer}.log_sigma2{'_bias' if part == 'bias' else ''}")
        linear = weight is not None and weight.dim() == 2
        if part not in ("weight", "bias") or noise is None or noise.shape != x.shape:
            continue
        if part == "bias" and linear:
            continue
        masks[name] = noise - 2 * torch.log(x.abs() + 1e-15) < CUT
    return masks


def _trials(place: Path, deeper: int) -> Iterator[Path]:
    try:
        folders = [p for p in place.iterdir() if p.is_dir() and not p.name.startswith(".")]
    except OSError as error:
        raise UserError(f"the folder {place} cannot be read: {error.strerror}") from None
    if any(CHECKPOINT.fullmatch(p.name) and (p / "checkpoints").is_file() for p in folders):
        yield place
    elif deeper:
        for folder in folders:
            yield from _trials(folder, deeper - 1)


def _checkpoints(folder: Path) -> Iterator[tuple[int, Path]]:
    for each in sorted(folder.iterdir()):
        found = CHECKPOINT.fullmatch(each.name)
        if found and (each / "checkpoints").is_file():
            yield int(found.group(1)), each / "checkpoints"


def _config(folder: Path) -> dict[str, Any]:
    """From params.json; where that is missing, from the lines of figures, which repeat it."""
    if (folder / "params.json").is_file():
        return read_object(folder / "params.json", MOST_FIGURES)
    for line in _lines(folder / "result.json"):
        config = line.get("config")
        if isinstance(config, dict):
            return config
    return {}


def _figures(folder: Path) -> Iterator[tuple[int, dict[str, float]]]:
    lines = list(_lines(folder / "result.json")) or list(_rows(folder / "progress.csv"))
    for line in lines:
        epoch = _of_kind(line.get("training_iteration"), float)
        if epoch is not None and epoch == int(epoch):
            values = {FIGURES[k]: _of_kind(v, float) for k, v in line.items() if k in FIGURES}
            kept = {k: v for k, v in values.items() if v is not None and v != NOT_MEASURED}
            yield int(epoch), kept


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a file with one a line; lines that are none, as of a trial cut short, are not."""
    if not _readable(path):
        return
    for line in path.read_bytes().splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not _readable(path):
        return
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        try:
            yield from csv.DictReader(file)
        except csv.Error:
            return


def _readable(path: Path) -> bool:
    try:
        return path.is_file() and os.stat(path).st_size <= MOST_FIGURES
    except OSError:
        return False


def _of_kind(value: object, kind: type) -> Any:
    """A value as text or as a finite number of that kind; ``None`` if it is neither."""
    if kind is str:
        return value if isinstance(value, str) and len(value) <= 100 else None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    if isinstance(value, bool) or not math.isfinite(number):
        return None
    if kind is int:
        return int(number) if number == int(number) and 0 <= number < 1 << 63 else None
    return number


def _fits(network: Network, tensors: Mapping[str, Tensor]) -> bool:
    try:
        with torch.device("meta"):
            made = build(network.model, network.classes, network.shape)
    except (UserError, RuntimeError, ValueError):
        return False
    found = {network.names[name]: x.shape for name, x in tensors.items()}
    wanted = {
        name: x.shape
        for name, x in made.state_dict().items()
        if name in found or not name.endswith("num_batches_tracked")
    }
    return wanted == found

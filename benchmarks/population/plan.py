"""What the 50,360 models of all published zoos take: core-hours, files, bytes, index.

Question: how long on how many cores, how much on disk, and how long to open and read?
Run:      python benchmarks/population/plan.py
          python benchmarks/population/plan.py --small 90.6 --evaluation 216 --resnet 91
          python benchmarks/population/plan.py --index        (measures the index as well)

Models, epochs, batches, splits and checkpoints come from the recipes that thrifty has.  Rates are
thousands of inputs x models a second of one core, by benchmarks/population/speed.py, the small
network with own batches and evaluation; other networks take their multiply-adds in proportion,
unless a rate of their own is given.  Zoos over a grid are published twice and count twice.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from problem import multiply_adds

from thrifty.lab.recipe import values_of
from thrifty.nets import resolve
from thrifty.population.reading import layers_of
from thrifty.shown import text_table
from thrifty.zoo.folder import Folder
from thrifty.zoo.index import rebuild, write_rows
from thrifty.zoo.recipe import ZooRecipe, roster
from thrifty.zoo.zoo import Zoo
from thrifty.zoos import zoo_recipe_of

DATA = {
    "mnist": ((1, 28, 28), 60_000, 10_000, 10),
    "fashion": ((1, 28, 28), 60_000, 10_000, 10),
    "svhn": ((1, 28, 28), 73_257, 26_032, 10),
    "usps": ((1, 28, 28), 7_291, 2_007, 10),
    "cifar10-small": ((3, 28, 28), 50_000, 10_000, 10),
    "cifar10-large": ((3, 32, 32), 50_000, 10_000, 10),
    "stl10-small": ((3, 28, 28), 5_000, 8_000, 10),
    "stl10-large": ((3, 32, 32), 5_000, 8_000, 10),
    "cifar10-resnet18": ((3, 32, 32), 50_000, 10_000, 10),
    "cifar100-resnet18": ((3, 32, 32), 50_000, 10_000, 100),
    "tiny-resnet18": ((3, 64, 64), 100_000, 10_000, 200),
}
"""Shape, training and test inputs, classes; by the beginning of a recipe's name."""
TWICE = ("mnist-hyp", "fashion-hyp", "svhn-hyp", "usps-hyp", "cifar10-small-hyp",
         "cifar10-large-hyp", "stl10-small-hyp", "stl10-large-hyp")  # fmt: skip
ONCE = ("mnist-seed", "fashion-seed", "svhn-seed", "usps-seed", "cifar10-small", "cifar10-large",
        "stl10-small", "stl10-large", "cifar10-resnet18", "cifar100-resnet18",
        "tiny-resnet18")  # fmt: skip
HEADER = 1500
"""Bytes of the header of a shard of ten tensors, about."""


@dataclass(frozen=True)
class Cost:
    """What the zoos of one recipe take together."""

    name: str
    models: int
    trained: float
    """Inputs x models."""
    hours: float
    """Of one core, checkpoints judged."""
    stacks: int
    longest: float
    """Hours of one core of the longest stack."""
    shards: int
    weights: float
    """Bytes of all shards."""
    predictions: float

    def cells(self) -> dict[str, str]:
        """A row of the table."""
        return {
            "zoo": self.name,
            "models": f"{self.models:,}",
            "inputs x models": f"{self.trained:.2g}",
            "core-hours": f"{self.hours:,.1f}",
            "stacks": f"{self.stacks:,}",
            "longest, h": f"{self.longest:.2f}",
            "shards": f"{self.shards:,}",
            "weights, GB": f"{self.weights / 1e9:,.2f}",
            "predictions, GB": f"{self.predictions / 1e9:.3f}",
        }


def recipe_of(name: str) -> ZooRecipe:
    """The recipe that comes along under a name."""
    return zoo_recipe_of(*values_of(name, []))


def cost(name: str, times: int, rates: argparse.Namespace) -> Cost:
    """What the zoo of a recipe takes, made that many times over."""
    recipe = recipe_of(name)
    key = next(k for k in sorted(DATA, key=len, reverse=True) if name.startswith(k))
    shape, train, test, classes = DATA[key]
    kept = round(train * recipe.validation)
    model = resolve(recipe.net, classes=classes, shape=shape)
    learning, judging = speeds(recipe.net, model, shape, rates)
    checkpoints = len(recipe.epochs())
    epochs = recipe.train.epochs
    each = epochs * (train - kept) / learning + checkpoints * (test + kept) / judging
    batches = roster(recipe)
    size = sum(4 * x.numel() for x in model.state_dict().values())
    return Cost(
        name if times == 1 else f"{name} x {times}",
        times * recipe.models,
        times * recipe.models * epochs * float(train - kept),
        times * recipe.models * each / 3600,
        times * len(batches),
        max(len(b.members) for b in batches) * each / 3600,
        times * len(batches) * checkpoints,
        times * checkpoints * (recipe.models * size + len(batches) * HEADER),
        times * float(recipe.models) * test,
    )


def speeds(
    net: str, model: torch.nn.Module, shape: tuple[int, ...], rates: argparse.Namespace
) -> tuple[float, float]:
    """Inputs x models a second of a core, training and judged."""
    if net.startswith("resnet18"):
        pixels = shape[1] * shape[2] / 32**2
        return rates.resnet / pixels, 3 * rates.resnet / pixels
    small = resolve("zoo_cnn_s", classes=10, shape=(1, 28, 28))
    base = layers_of(small, (1, 28, 28))  # type: ignore[arg-type]
    own = layers_of(model, shape)  # type: ignore[arg-type]
    slower = [multiply_adds(own, t) / multiply_adds(base, t) for t in (True, False)]
    learning = rates.small / slower[0]
    if net.startswith("zoo_cnn_l") and rates.large:
        learning = rates.large
    return 1e3 * learning, 1e3 * rates.evaluation / slower[1]


def costs(rates: argparse.Namespace) -> Iterator[Cost]:
    """Of every published zoo."""
    for name in ONCE:
        yield cost(name, 1, rates)
    for name in TWICE:
        yield cost(name, 2, rates)


def together(name: str, found: list[Cost]) -> Cost:
    """The sum."""
    return Cost(
        name,
        sum(c.models for c in found),
        sum(c.trained for c in found),
        sum(c.hours for c in found),
        sum(c.stacks for c in found),
        max(c.longest for c in found),
        sum(c.shards for c in found),
        sum(c.weights for c in found),
        sum(c.predictions for c in found),
    )


def index(models: int, checkpoints: int) -> dict[str, float]:
    """Bytes of rows and of index.parquet, and ms to open with and without it; rows alone are
    written, for opening reads nothing else."""
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Folder(Path(name) / "zoo"), np.random.default_rng(0)
        folder.prepare({"kind": "models", "networks": []})
        for epoch in range(0, 5 * checkpoints, 5):
            for first in range(0, models, 64):
                ids = range(first, min(models, first + 64))
                said = {n: rng.uniform(size=len(ids)) for n in (
                    "train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss",
                    "test_accuracy")}  # fmt: skip
                own = {"net": "zoo_cnn_s", "act": "tanh", "init": "uniform", "dropout": 0.0,
                       "optimizer": "adam", "lr": 3e-4, "weight_decay": 0.0, "batch": 10,
                       "seed": ids, "diverged": False}  # fmt: skip
                write_rows(
                    folder.root, f"{first:06d}n{len(ids)}", epoch, {"model": ids} | own | said
                )
        rebuild(folder.root)
        rows = sum(p.stat().st_size for p in folder.rows_folder.iterdir())
        found = {
            "rows": float(models * checkpoints),
            "rows_mb": rows / 1e6,
            "parquet_mb": folder.index.stat().st_size / 1e6,
            "open_ms": opened(folder),
        }
        folder.index.unlink()
        return found | {"open_without_ms": opened(folder)}


def opened(folder: Folder) -> float:
    """Ms of the thread to open a zoo; the best of three."""
    took = []
    for _ in range(3):
        start = time.thread_time()
        Zoo(folder.root)
        took.append(1e3 * (time.thread_time() - start))
    return min(took)


def main() -> None:
    """Print the table, and the index if it is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", type=float, default=90.6, help="thousand a second, training")
    parser.add_argument("--large", type=float, help="thousand a second, training the large network")
    parser.add_argument("--evaluation", type=float, default=216.0, help="thousand a second")
    parser.add_argument("--resnet", type=float, default=91.0, help="ResNet-18 at 32 x 32, a second")
    parser.add_argument("--index", action="store_true", help="measure an index of that size")
    asked = parser.parse_args()
    found = list(costs(asked))
    lanes = [c for c in found if "resnet" not in c.name]
    resnets = [c for c in found if "resnet" in c.name]
    every = [*lanes, together("all in lanes", lanes), *resnets, together("ResNet-18", resnets),
             together("all", found)]  # fmt: skip
    print(f"a core: {asked.small:g} k inputs x models a second training the small network, "
          f"{asked.evaluation:g} k judging it, {asked.resnet:g} training ResNet-18")  # fmt: skip
    print(text_table([c.cells() for c in every]))
    if asked.index:
        for models in (4_320, 50_360):
            told = index(models, 11)
            said = ", ".join(f"{k} {v:,.1f}" for k, v in told.items())
            print(f"index of {models:,} models at 11 checkpoints: {said}")


if __name__ == "__main__":
    main()

"""Which channels are worth keeping: accuracy at equal multiply-adds after equal retraining.

A trained ResNet on CIFAR-10 loses channels until half (``--macs``) of its multiply-adds are left,
by our methods and by those of Torch-Pruning, and every smaller network is retrained with the same
data, epochs, learning rate and seeds.  ``--theirs`` needs ``pip install torch-pruning==1.6.1``.

    python benchmarks/channels/accuracy.py DATA --network resnet20 --seeds 3
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

import thrifty
from thrifty.channels.finding import groups
from thrifty.lab.measure import judge
from thrifty.nets import count_macs
from thrifty.pruning.gates import gate
from thrifty.pruning.structured import prune_channels
from thrifty.training.loop import derive, train
from thrifty.training.plan import Plan
from thrifty.training.recovery import recalibrate

WEIGHTS = {"resnet20": "resnet20-12fca82f.th", "resnet32": "resnet32-d509ac18.th"}
OURS = ("l1_filter", "l1_global", "fpgm", "taylor", "group_norm", "slimming", "random_filter")
LEARNED = {"group_norm+": ("group_norm", "group_growth"), "slimming+": ("slimming", "bn_scale")}
"""Trained with gates first, for as many epochs as are retrained, beside equal training."""


def theirs(model: nn.Module, name: str, example: torch.Tensor, share: float) -> nn.Module:
    """The network after Torch-Pruning has brought its multiply-adds to ``share`` of what they were,
    a little at a time, as its own scripts do."""
    import torch_pruning as tp

    kinds = {
        "TP magnitude": tp.importance.MagnitudeImportance(p=1),
        "TP magnitude, global": tp.importance.MagnitudeImportance(p=1),
        "TP bn scale": tp.importance.BNScaleImportance(),
        "TP group norm": tp.importance.GroupMagnitudeImportance(p=2),
        "TP group norm, global": tp.importance.GroupMagnitudeImportance(p=2),
        "TP random": tp.importance.RandomImportance(),
    }
    # Its groups do not follow the zero-padded shortcuts of this network (the forward pass breaks),
    # so it is given the channels inside the blocks, which it follows well.
    inside = {id(m) for n, m in model.named_modules() if n.startswith("layer") and "conv1" in n}
    kept = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    pruner = tp.pruner.MetaPruner(
        model,
        example,
        importance=kinds[name],
        global_pruning="global" in name or name == "TP bn scale",
        pruning_ratio=1.0,
        max_pruning_ratio=0.9,
        iterative_steps=200,
        ignored_layers=[m for m in kept if id(m) not in inside],
    )
    shape = tuple(example.shape[1:])
    target = share * count_macs(model, shape)
    for _ in range(200):
        pruner.step()
        if count_macs(model, shape) <= target:
            return model
    raise SystemExit(f"{name} never reached {share:.0%} of the multiply-adds")


THEIRS = (
    "TP magnitude",
    "TP magnitude, global",
    "TP bn scale",
    "TP group norm",
    "TP group norm, global",
    "TP random",
)


def main() -> None:
    """Cut, retrain, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with cifar10/ and weights/cifar10/")
    parser.add_argument("--network", choices=WEIGHTS, default="resnet20")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--train", type=int, default=20_000, help="training pictures")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--theirs", action="store_true")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--out", type=Path)
    said = parser.parse_args()
    torch.set_num_threads(1)
    data = thrifty.load_data(f"parquet:{said.data}/cifar10?normalize=imagenet&train={said.train}")
    weights = said.data / "weights/cifar10" / WEIGHTS[said.network]
    plan = Plan(epochs=said.epochs, batch=128, lr=said.lr, weight_decay=1e-4, precision="bf16")
    example = data.prepare(data.test.inputs[:2])

    def dense() -> nn.Module:
        return thrifty.resolve(said.network, weights=weights, classes=10, shape=data.shape)

    def cut(name: str, seed: int) -> nn.Module:
        model = dense().eval()
        if name == "dense":
            return model
        if name in THEIRS:
            torch.manual_seed(seed)
            return theirs(model, name, example, said.macs)
        method, spec = LEARNED.get(name, (name, None))
        if spec is not None:
            found = gate(spec, groups=groups(model, example))
            found.attach(model)
            train(model, data, plan, seed=derive(seed, "gate"), gate=found)
            found.fold(model)
        budget = thrifty.Budget(said.macs, of="macs")
        return prune_channels(model, method, budget, example, data=data, seed=seed, round=1)

    whole = count_macs(dense(), data.shape)
    print(
        f"{said.network}, CIFAR-10: {judge(dense(), data).accuracy:.2%} dense; {said.epochs} "
        f"epochs of {len(data.train):,} pictures, lr {said.lr:g}, {said.seeds} seeds; "
        f"torch {torch.__version__}"
    )
    rows = []
    names = ["dense", *OURS, *LEARNED, *(THEIRS if said.theirs else ())]
    for name in said.only or names:
        after, before, began = [], [], time.monotonic()
        for seed in range(said.seeds):
            try:
                model = cut(name, seed)
            except Exception as error:
                print(f"{name:24} failed: {type(error).__name__}: {str(error).splitlines()[0]}")
                break
            share, params = (
                count_macs(model, data.shape) / whole,
                sum(p.numel() for p in model.parameters()),
            )
            recalibrate(model, data)
            before.append(judge(model, data).accuracy)
            train(model, data, plan, seed=derive(seed, "retrain"))
            after.append(judge(model, data).accuracy)
        if after:
            spread = statistics.stdev(after) if len(after) > 1 else 0.0
            row = {
                "method": name,
                "macs": share,
                "params": params,
                "before": statistics.fmean(before),
                "accuracy": statistics.fmean(after),
                "std": spread,
                "seeds": after,
                "seconds": time.monotonic() - began,
            }
            rows.append(row)
            print(
                f"{name:24} MACs {share:6.1%}  params {params:>8,}  before retraining "
                f"{row['before']:7.2%}  after {row['accuracy']:7.2%} +- {spread:.2%}  "
                f"({row['seconds']:.0f} s)",
                flush=True,
            )
            if said.out:
                said.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

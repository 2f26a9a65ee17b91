"""Torch-Pruning 1.6.1: 30 % of the channels of every layer, by L1, the classifier left alone.

Run by compare.py in a Python that has torch_pruning.  What its own scripts set for
transformers is set here too (benchmarks/prunability/torchvision_pruning.py and
examples/timm_models/prune_timm_models.py of its repository).
"""

import copy
import os
import warnings

os.environ["TIMM_FUSED_ATTN"] = "0"  # as its script for timm does

import torch
import torch_pruning as tp
from networks import build, classifiers, example
from torch import nn
from trial import LIMIT_S, SHARE, Outcome, count, judge, limited, main, run, timed


class Masks:
    """The channels that Torch-Pruning removes, at zero in a copy of the network.

    The indices it gives are of layers as they are at that moment, and are counted back.
    """

    def __init__(self, model: nn.Module):
        self.model = copy.deepcopy(model)
        theirs, ours = dict(model.named_modules()), dict(self.model.named_modules())
        self.twins = {module: ours[name] for name, module in theirs.items()}
        self.left: dict[nn.Module | str, torch.Tensor] = {}
        self.unknown = ""

    @torch.no_grad()
    def note(self, graph: tp.DependencyGraph, group: tp.Group) -> None:
        """Set to zero what the group is about to lose."""
        for dependency, indices in group:
            module = dependency.target.module
            if isinstance(module, nn.Parameter):
                self._parameter(graph, module, dependency.target.pruning_dim, indices)
            elif module in self.twins and graph.is_out_channel_pruning_fn(dependency.handler):
                self._module(module, indices)

    def _module(self, module: nn.Module, indices: list[int]) -> None:
        twin = self.twins[module]
        weight = getattr(twin, "weight", None)
        if not isinstance(weight, torch.Tensor) or isinstance(twin, nn.MultiheadAttention):
            if isinstance(twin, nn.MultiheadAttention):
                self.unknown = "MultiheadAttention"
            return
        dim = 1 if isinstance(twin, nn.modules.conv._ConvTransposeNd) else 0
        gone = self._counted_back(module, weight.shape[dim], indices)
        weight.index_fill_(dim, gone, 0.0)
        if isinstance(getattr(twin, "bias", None), torch.Tensor):
            twin.bias[gone] = 0.0

    def _parameter(
        self, graph: tp.DependencyGraph, module: nn.Parameter, dim: int, indices: list[int]
    ) -> None:
        name = graph._param_to_name[module]
        tensor = self.model.get_parameter(name)
        gone = self._counted_back(name, tensor.shape[dim], indices)
        tensor.index_fill_(dim, gone, 0.0)

    def _counted_back(self, key: nn.Module | str, size: int, indices: list[int]) -> torch.Tensor:
        left = self.left.get(key, torch.arange(size))
        lost = torch.zeros(len(left), dtype=torch.bool)
        lost[torch.tensor(indices)] = True
        self.left[key] = left[~lost]
        return left[lost]


def attempt(outcome: Outcome) -> None:
    """Cut, run, compare."""
    warnings.simplefilter("ignore")
    model, images = build(outcome.network), example(outcome.network, 10)
    before = run(model, images)
    masks = Masks(model)
    outcome.before = count(model)
    heads = {
        m.qkv: m.num_heads
        for m in model.modules()
        if hasattr(m, "num_heads") and isinstance(getattr(m, "qkv", None), nn.Linear)
    }
    broken = ""
    with limited(LIMIT_S):
        with timed(outcome, "groups"):
            pruner = tp.pruner.MagnitudePruner(
                model,
                example(outcome.network, 11),
                importance=tp.importance.MagnitudeImportance(p=1),
                pruning_ratio=SHARE,
                global_pruning=False,
                ignored_layers=_ignored(model),
                num_heads=heads,
                round_to=_round_to(model),
            )
        cut = 0
        with timed(outcome, "cut"):
            for group in pruner.step(interactive=True):
                try:
                    masks.note(pruner.DG, group)
                except Exception as error:  # ours, not theirs: then outputs are not compared
                    broken = f"{type(error).__name__}: {error}"
                group.prune()
                cut += 1
            _mend(model, pruner.num_heads)
        outcome.after, outcome.groups = count(model), {"cut": cut}
        with timed(outcome, "run"):
            after = run(model, images)
    outcome.outcome = "runs"
    if masks.unknown or broken:
        outcome.reason = f"outputs not compared: {masks.unknown or broken}"
        return
    judge(outcome, before, run(masks.model, images), after)
    if outcome.after == outcome.before:
        outcome.outcome = "uncut"


def _ignored(model: nn.Module) -> list[nn.Module]:
    inner = nn.modules.linear.NonDynamicallyQuantizableLinear
    return [*classifiers(model), *(m for m in model.modules() if isinstance(m, inner))]


def _round_to(model: nn.Module) -> int | None:
    """Heads of torchvision's ViT."""
    layer = next((m for m in model.modules() if isinstance(m, nn.MultiheadAttention)), None)
    return layer.num_heads if layer is not None else None


def _mend(model: nn.Module, heads: dict[nn.Module, int]) -> None:
    """Numbers that code of transformers keeps, as Torch-Pruning's scripts do."""
    for m in model.modules():
        if getattr(m, "qkv", None) in heads and hasattr(m, "num_heads"):
            m.num_heads = heads[m.qkv]
            m.head_dim = m.qkv.out_features // (3 * m.num_heads)
    if hasattr(model, "hidden_dim") and hasattr(model, "conv_proj"):
        model.hidden_dim = model.conv_proj.out_channels


main("Torch-Pruning", attempt)

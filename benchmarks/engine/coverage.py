"""Which networks become programs, and how much of them the engine runs by itself?

Question: is the program of each network of torchvision, and of 40 of timm, equal to the network;
          what share of its multiply-adds lies in native kinds; which operators are left to torch?
Run:      python benchmarks/engine/coverage.py [--zoo torchvision|timm] [--size 224] [NAME ...]
Last:     all 80 of torchvision and 46 of timm equal (one in float64), torch 2.13.0, 1 thread.
          CNNs of torchvision have no fallbacks but ConvNeXt (layer_norm and permutations);
          of timm also sknet and resnest (sums over branches) and hrnet (upsampling).
          Transformers have 92 to 98 % of their multiply-adds in native kinds.
Method:   random weights, batch norm with random statistics; lowered at a batch of 2 and compared
          at a batch of 3; equal means a difference under 1e-5 of the largest output, in float64
          if not in float32 (some networks with random weights amplify rounding).
"""

import argparse
import copy
import time
from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn

from thrifty._compat import import_timm, import_torchvision
from thrifty.engine.program import Program
from thrifty.errors import UserError
from thrifty.lowering import Lowered, lower
from thrifty.lowering.interpreting import prepared

EQUAL, SMALL = 1e-5, 1e-3

TIMM = [
    "resnet18",
    "resnet50d",
    "resnext50_32x4d",
    "seresnet50",
    "ecaresnet50d",
    "skresnet18",
    "res2net50_26w_4s",
    "resnest14d",
    "wide_resnet50_2",
    "densenet121",
    "dpn68",
    "vgg11_bn",
    "dla34",
    "hrnet_w18_small",
    "inception_v4",
    "inception_resnet_v2",
    "xception41",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "mnasnet_100",
    "fbnetc_100",
    "efficientnet_b0",
    "tf_efficientnet_b0",
    "efficientnetv2_rw_t",
    "tf_efficientnetv2_b0",
    "ghostnet_100",
    "lcnet_050",
    "regnetx_004",
    "regnety_004",
    "repvgg_a0",
    "rexnet_100",
    "nfnet_f0",
    "cspresnet50",
    "cspdarknet53",
    "convnext_atto",
    "convnextv2_atto",
    "levit_128s",
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "mixer_s32_224",
    "swin_tiny_patch4_window7_224",
    "pit_ti_224",
    "poolformer_s12",
    "mobilevit_xxs",
    "edgenext_xx_small",
]


def torchvision_names() -> list[str]:
    """Networks that classify pictures."""
    models = import_torchvision().models
    return list(models.list_models(module=models))


def networks(zoo: str, names: list[str]) -> Iterator[tuple[str, nn.Module]]:
    """Networks by name, with random weights and random statistics of batch norm."""
    for name in names:
        torch.manual_seed(0)
        if zoo == "timm":
            model = import_timm().create_model(name)
        else:
            options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
            model = import_torchvision().models.get_model(name, **options)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.1)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
            if parameter.abs().max() < SMALL:  # or whole blocks would not show in the answer
                parameter.normal_(0, 0.1)
        yield name, model.eval()


def native_macs(lowered: Lowered) -> int:
    """Multiply-adds of convolutions and linear layers in native kinds, for one image."""
    total = 0
    for op in lowered.program.ops:
        if op.kind in ("conv", "linear"):
            weight = lowered.tensors[op.tensors["weight"]]
            total += torch.Size(lowered.program.values[op.output]).numel() * weight[0].numel()
    return total


def fallback_macs(program: Program) -> int:
    """Multiply-adds of products and attention left to torch, for one image."""
    total = 0
    for op in program.ops:
        target = op.attrs.get("target", "")
        shapes = [torch.Size(program.values[name]) for name in op.inputs]
        if target in ("aten.matmul.default", "aten.bmm.default"):
            total += torch.Size(program.values[op.output]).numel() * shapes[0][-1]
        elif target == "aten.scaled_dot_product_attention.default":
            total += 2 * shapes[0].numel() * shapes[1][-2]
    return total


def fallbacks(program: Program) -> str:
    """Names of operators left to torch, with how often."""
    names = Counter(op.attrs["target"] for op in program.ops if op.kind == "fallback")
    return ", ".join(f"{n}x {name.split('.')[1]}" for name, n in names.most_common()) or "none"


def difference(model: nn.Module, lowered: Lowered, x: torch.Tensor) -> float:
    """Of the outputs of network and program, as a share of the largest."""
    tensors = {k: t.to(x.dtype) if t.is_floating_point() else t for k, t in lowered.tensors.items()}
    with torch.no_grad():
        expected = model(x)
        given = prepared(lowered.program, tensors, x.dtype)(x)
    return float((given - expected).abs().max() / expected.abs().max())


def line(model: nn.Module, size: int) -> str:
    """What there is to say of one network."""
    x = torch.randn(3, 3, size, size)
    start = time.perf_counter()
    lowered = lower(model, x[:2], check=False)
    took = time.perf_counter() - start
    relative = difference(model, lowered, x)
    exact = ""
    if relative >= EQUAL:  # random networks may amplify rounding; float64 tells
        exact = " in float64"
        relative = difference(copy.deepcopy(model).double(), lowered, x.double())
    verdict = ("equal" if relative < EQUAL else "DIFFERENT") + exact
    native = native_macs(lowered)
    share = native / max(1, native + fallback_macs(lowered.program))
    notes = "; static batch" if lowered.notes else ""
    return (
        f"{verdict:9} {relative:.0e}  native {share:6.1%}  {len(lowered.program.ops):4} ops  "
        f"{took:5.1f} s  fallbacks: {fallbacks(lowered.program)}{notes}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--zoo", choices=("torchvision", "timm"), default="torchvision")
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {args.zoo}, 3x{args.size}x{args.size}", flush=True)
    names = args.names or (TIMM if args.zoo == "timm" else torchvision_names())
    for name, model in networks(args.zoo, names):
        try:
            said = line(model, args.size)
        except UserError as error:
            said = f"REFUSED   {error}"
        print(f"{name:32} {said}", flush=True)


if __name__ == "__main__":
    main()

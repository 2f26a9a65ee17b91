"""The networks that are cut: every classification network of torchvision, and 40 of timm.

Weights are random with a fixed seed.  Batch normalisation gets the statistics of random input,
shaken, and no scale, shift or layer scale is left at zero or one: a network whose branches say
nothing, as many do when they are made, would pass any comparison.
"""

import fnmatch
import importlib
import re
import sys
import warnings
from types import ModuleType

import torch
from torch import Tensor, nn

HUGE = ("torchvision:regnet_y_128gf", "torchvision:vit_h_14")
"""Above 600 million parameters; left out unless asked for."""

SMALL = 64
_TORCHVISION = {"inception*": 96, "maxvit*": 224, "swin*": 224, "vit*": 224}
_TIMM = {
    "resnet26d": SMALL,
    "seresnext26t_32x4d": SMALL,
    "regnety_002": SMALL,
    "densenetblur121d": SMALL,
    "tf_efficientnetv2_b0": SMALL,
    "mobilenetv3_small_050": SMALL,
    "mobilenetv4_conv_small": SMALL,
    "ghostnet_050": SMALL,
    "mixnet_s": SMALL,
    "mnasnet_small": SMALL,
    "repvgg_a0": SMALL,
    "convnext_atto": SMALL,
    "convnextv2_atto": SMALL,
    "nfnet_l0": SMALL,
    "dpn68": SMALL,
    "dla34": SMALL,
    "hrnet_w18_small": SMALL,
    "ese_vovnet19b_dw": SMALL,
    "legacy_xception": 96,
    "inception_resnet_v2": 96,
    "inception_v4": 96,
    "res2net50_14w_8s": SMALL,
    "resnest14d": SMALL,
    "skresnet18": SMALL,
    "selecsls42": SMALL,
    "cspdarknet53": SMALL,
    "edgenext_xx_small": SMALL,
    "mobilevit_xxs": SMALL,
    "mobileone_s0": SMALL,
    "fastvit_t8": SMALL,
    "efficientformer_l1": 224,
    "levit_128s": 224,
    "vit_tiny_patch16_224": 224,
    "deit_tiny_distilled_patch16_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "mixer_s32_224": 224,
    "resmlp_12_224": 224,
    "poolformer_s12": SMALL,
    "pvt_v2_b0": SMALL,
    "coat_lite_tiny": 224,
}
_SHOTS = 8
_ABSENT = re.compile(r"operator torchvision::(\w+) does not exist")


def names() -> list[str]:
    """``torchvision:NAME`` and ``timm:NAME`` of all networks."""
    models = package("torchvision").models
    return [
        *(f"torchvision:{name}" for name in models.list_models(module=models)),
        *(f"timm:{name}" for name in _TIMM),
    ]


def size(name: str) -> int:
    """Height and width of the input."""
    zoo, _, network = name.partition(":")
    if zoo == "timm":
        return _TIMM[network]
    return next((n for like, n in _TORCHVISION.items() if fnmatch.fnmatch(network, like)), SMALL)


def example(name: str, seed: int, batch: int = 2) -> Tensor:
    """Normal noise as the network takes it."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, size(name), size(name), generator=generator)


def build(name: str) -> nn.Module:
    """The network in eval mode, the same in every process."""
    zoo, _, network = name.partition(":")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if zoo == "timm":
            model = package("timm").create_model(network)
        else:
            # googlenet and inception draw their weights by a method that takes half a minute
            slow = network in ("googlenet", "inception_v3")
            options = {"init_weights": False} if slow else {}
            model = package("torchvision").models.get_model(network, weights=None, **options)
    model.eval()
    _vary(model)
    _settle(model, example(name, 1, _SHOTS))
    return model


@torch.no_grad()
def _vary(model: nn.Module) -> None:
    """In place: numbers for what has one number a channel, and for classifiers that are zero."""
    generator = torch.Generator().manual_seed(2)
    for name, p in model.named_parameters():
        if p.numel() == 1:
            continue
        if p.numel() != max(p.shape):
            if not bool(p.any()):
                p.copy_(torch.randn(p.shape, generator=generator) / p[0].numel() ** 0.5)
            continue
        drawn = torch.rand(p.shape, generator=generator)
        bias = name.endswith(("bias", "beta"))
        p.copy_(0.2 * (drawn - 0.5) if bias else 0.5 + drawn)


@torch.no_grad()
def _settle(model: nn.Module, images: Tensor) -> None:
    """In place: statistics of normalisations near those of what they see, layer after layer."""
    generator = torch.Generator().manual_seed(3)

    def settle(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].transpose(0, 1).flatten(1)
        drawn = torch.rand((2, len(x)), generator=generator)
        var = x.var(1, correction=0)
        var.clamp_min_(0.01 * float(var.mean()) + 1e-6)
        norm.running_mean.copy_(x.mean(1) + 0.4 * (drawn[0] - 0.5) * var.sqrt())
        norm.running_var.copy_(var * (0.8 + 0.4 * drawn[1]))

    handles = [
        m.register_forward_pre_hook(settle)
        for m in model.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
    ]
    model(images)
    for handle in handles:
        handle.remove()


def package(name: str) -> ModuleType:
    """torchvision or timm, also where the operators of torchvision do not load.

    thrifty does the same; the rival runs where thrifty is not installed.
    """
    for _ in range(5):
        try:
            importlib.import_module("torchvision")
            break
        except RuntimeError as error:
            absent = _ABSENT.search(str(error))
            if absent is None:
                raise
            for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
                del sys.modules[module]
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{absent.group(1)}", schema)
    return importlib.import_module(name)


def classifiers(model: nn.Module) -> list[nn.Module]:
    """The layers that give the 1000 classes."""
    return [
        m
        for m in model.modules()
        if (isinstance(m, nn.Linear) and m.out_features == 1000)
        or (isinstance(m, nn.Conv2d) and m.out_channels == 1000)
    ]

"""Networks and weights that other packages publish: ``torchvision:NAME`` and ``timm:NAME``.

Published weights are asked for with an option, ``torchvision:resnet18?weights=DEFAULT`` or
``timm:resnet18?pretrained=true``.  The local cache is looked at first; without it and without a
network connection this fails within seconds and says which file to bring.
"""

import inspect
import socket
import urllib.error
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from thrifty._compat import import_timm, import_torchvision
from thrifty.errors import MissingExtra, UnknownName, UserError
from thrifty.nets.architecture import Architecture, remember
from thrifty.registry import Spec, Value, suggest

PATIENCE_S = 10
Zoo = Callable[[Spec, int | None, tuple[int, ...] | None], nn.Module]


def names(zoo: str) -> list[str]:
    """The networks of ``"torchvision"`` or ``"timm"``; none if it is not installed."""
    try:
        if zoo == "torchvision":
            return list(import_torchvision().models.list_models())
        return list(import_timm().list_models())
    except MissingExtra:
        return []


def from_torchvision(spec: Spec, classes: int | None, shape: tuple[int, ...] | None) -> nn.Module:
    """A network of torchvision; ``classes`` is its ``num_classes`` unless weights are asked for.

    Raises:
        UserError: there is no such network or option, or the weights cannot be had.
    """
    models = import_torchvision().models
    if spec.name not in models.list_models():
        raise _unknown("torchvision", spec.name)
    options: dict[str, Any] = dict(spec.options)
    weights = options.get("weights")
    if weights is not None:
        try:
            categories = models.get_model_weights(spec.name)[str(weights)].meta.get("categories")
        except KeyError:
            known = [w.name for w in models.get_model_weights(spec.name)]
            raise UnknownName(
                f"torchvision:{spec.name} has no weights {weights!r}; "
                f"{suggest(str(weights), known)}"
            ) from None
        classes = len(categories) if categories else None
    else:
        _default(options, "num_classes", classes)
        if "weights_backbone" in inspect.signature(models.get_model_builder(spec.name)).parameters:
            options.setdefault("weights_backbone", None)  # detectors would fetch one unasked
    with _patience(f"torchvision:{spec}"):
        model = _called(f"torchvision:{spec}", models.get_model, spec.name, options)
    kept = {k: v for k, v in spec.options.items() if k != "weights"}
    return _remembered(model, Spec(f"torchvision:{spec.name}", kept), classes, shape)


def from_timm(spec: Spec, classes: int | None, shape: tuple[int, ...] | None) -> nn.Module:
    """A network of timm; ``classes`` is its ``num_classes`` unless it is pretrained.

    Raises:
        UserError: there is no such network or option, or the weights cannot be had.
    """
    timm = import_timm()
    if ":" in spec.name or "/" in spec.name or not timm.is_model(spec.name):
        raise _unknown("timm", spec.name)
    options: dict[str, Any] = dict(spec.options)
    if options.get("pretrained"):
        classes = None
        options["pretrained_cfg_overlay"] = {"file": _cached(timm, spec)}
    else:
        _default(options, "num_classes", classes)
    model = _called(f"timm:{spec}", timm.create_model, spec.name, options)
    kept = {k: v for k, v in spec.options.items() if k != "pretrained"}
    classes = classes or getattr(model, "num_classes", None)
    return _remembered(model, Spec(f"timm:{spec.name}", kept), classes, shape)


ZOOS: Mapping[str, Zoo] = {"torchvision": from_torchvision, "timm": from_timm}


def _unknown(zoo: str, name: str) -> UnknownName:
    near = suggest(name, names(zoo))
    if not near.startswith("did you mean"):
        near = "torchvision.models.list_models() and timm.list_models() list what there is"
    return UnknownName(f"{zoo} has no network {name!r}; {near}")


def _remembered(
    model: nn.Module, spec: Spec, classes: int | None, shape: tuple[int, ...] | None
) -> nn.Module:
    stated = spec.options.get("num_classes", classes)
    return remember(
        model, Architecture(str(spec), stated if isinstance(stated, int) else None, shape)
    )


def _default(options: dict[str, Any], key: str, value: Value | None) -> None:
    if value is not None:
        options.setdefault(key, value)


def _called(what: str, fn: Callable[..., Any], name: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # googlenet, about its own defaults
            model = fn(name, **options)
    except (TypeError, ValueError, KeyError, AssertionError) as error:
        raise UserError(f"{what} cannot be built: {error}; mend the options after '?'") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{what} is no torch.nn.Module")
    return model


@contextmanager
def _patience(what: str) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE_S)
    try:
        yield
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{what}: the weights are not in {torch.hub.get_dir()}/checkpoints and cannot be "
            f"downloaded ({reason}); put the file there, or leave out the option and give the "
            f"file with --weights"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _cached(timm: Any, spec: Spec) -> str:
    """The file of the published weights, from the cache or, if the hub answers, from there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    config = timm.get_pretrained_cfg(spec.name)
    repository = getattr(config, "hf_hub_id", None)
    if not repository:
        raise UserError(f"timm publishes no weights for {spec.name}; leave out pretrained=true")
    if repository == "timm/":
        repository += f"{config.architecture}.{config.tag}"
    for file in ("model.safetensors", "pytorch_model.bin"):
        try:
            return str(hf_hub_download(repository, file, local_files_only=True))
        except LocalEntryNotFoundError:
            continue
    try:
        socket.create_connection(("huggingface.co", 443), timeout=PATIENCE_S / 2).close()
        return str(hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # of the socket, of the library, of what it uses
        raise UserError(
            f"timm:{spec}: the weights are not in the cache and cannot be downloaded ({error}); "
            f"download model.safetensors of huggingface.co/{repository} elsewhere, leave out "
            f"pretrained=true and give the file with --weights"
        ) from error

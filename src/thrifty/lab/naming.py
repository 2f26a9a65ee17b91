"""What networks and data are called in titles and legends."""

from collections.abc import Iterable, Sequence

MOST_NAMED = 3
"""Networks that a title names."""


def titled(model: str, data: str) -> str:
    """A network on a data set, as a title names them: no folders, no options of the data.

    Example:
        >>> titled("resnet20?width=2", "parquet:/some/where/cifar10?train=1000")
        'resnet20?width=2 on cifar10'
    """
    name, _, place = data.partition("?")[0].replace("\\", "/").partition(":")
    if place and name not in ("mnist", "fashion_mnist"):
        name = place.rstrip("/").rpartition("/")[2]
    return f"{model.replace(chr(92), '/').rstrip('/').rpartition('/')[2]} on {name}"


PREPARED = ("normalize", "shift", "flip")
"""Options of data that change how a network sees them, and not what it is examined on."""


def examined(data: str) -> str:
    """The data that a network is examined on, whichever way it sees them.

    Example:
        >>> examined("parquet:cifar10?normalize=imagenet&train=1000")
        'parquet:cifar10?train=1000'
    """
    name, _, options = data.partition("?")
    kept = [o for o in options.split("&") if o and o.partition("=")[0] not in PREPARED]
    return "?".join([name, *filter(None, ["&".join(kept)])])


def short_names(models: Sequence[str]) -> dict[str, str]:
    """What networks are called beside each other: options that all of a name have are left out.

    Example:
        >>> list(short_names(["vgg16?width=2&size=64", "vgg16?size=64", "lenet?width=2"]).values())
        ['vgg16?width=2', 'vgg16', 'lenet']
    """
    parts = {model: _parts(titled(model, "").removesuffix(" on ")) for model in models}
    named = {}
    for model, (name, options, run) in parts.items():
        others = [theirs for at, theirs, _ in parts.values() if at == name]
        told = [o for o in options if not all(o in theirs for theirs in others)]
        named[model] = "?".join([name, *filter(None, ["&".join(told)])]) + run
    return named


def title_of(networks: Iterable[tuple[str, str]]) -> str:
    """A title that names several networks, each with its data, by what tells them apart.

    Example:
        >>> title_of([("lenet?width=2", "mnist:D"), ("lenet?width=3", "mnist:D")])
        'lenet?width=2 on mnist, lenet?width=3 on mnist'
    """
    pairs = list(dict.fromkeys(networks))
    models = list(dict.fromkeys(model for model, _ in pairs))
    short = short_names(models) if models[1:] else dict(zip(models, models, strict=True))
    names = list(dict.fromkeys(titled(short[model], data) for model, data in pairs))
    return ", ".join(names[:MOST_NAMED]) + (", ..." if names[MOST_NAMED:] else "")


def _parts(model: str) -> tuple[str, list[str], str]:
    """A network's name, its options, and the run in brackets, if there are any."""
    spec, bracket, run = model.partition(" (")
    name, _, options = spec.partition("?")
    return name, [o for o in options.split("&") if o], bracket + run

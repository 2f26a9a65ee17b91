"""``thrifty train``: the dense network alone, a run from which others go on."""

import math
from typing import Annotated, Any

from thrifty.errors import UserError
from thrifty.registry import Spec, parse_spec
from thrifty.running import (
    MANY,
    Device,
    Distributed,
    Json,
    Out,
    Silent,
    Threads,
    Whole,
    Workers,
    given,
    run_and_show,
)

OPTIONS = {
    "model": "NET",
    "data": "--data",
    "seeds": "--seeds",
    "weights": "--weights",
    "train.epochs": "--epochs",
    "train.lr": "--lr",
    "train.gate": "--gate",
    **{f"machine.{k}": f"--{k}" for k in ("threads", "workers", "device")},
}
"""What the command calls the keys of a recipe."""


def train(
    net: str,
    /,
    *,
    data: str,
    epochs: Whole = 20,
    budget: str | None = None,
    gate_cost: float | None = None,
    gate: str | None = None,
    seeds: Whole = 1,
    weights: str | None = None,
    lr: float | None = None,
    set: Annotated[list[str] | None, MANY] = None,
    out: Out = None,
    threads: Threads = None,
    workers: Workers = None,
    device: Device = None,
    distributed: Distributed = False,
    json: Json = False,
    quiet: Silent = False,
) -> None:
    """Train NET, with or without gates, and measure it; the run is a MODEL for ``thrifty prune``.

    With ``--gate-cost`` a highway network learns to leave its transform gates shut.  A run that
    was stopped goes on where it was.

    Example: ``thrifty train lenet --data mnist:DIR --epochs 10 --out runs/lenet``

    Parameters
    ----------
    net
        A network, as for ``thrifty prune``.
    data
        Data, as for ``thrifty prune``.
    epochs
        Epochs of training.
    budget
        What a network that can be of any size may cost: ``params=40k``.  For thriftynet.
    gate_cost
        Strength of the penalty on open gates of a highway network, such as 1e-2; 0 only measures
        them.
    gate
        One of ``thrifty gates`` with options, to train with: ``highway?strength=.01&cost=macs``.
    seeds
        How many networks are trained; others go on from the first.
    weights
        File of weights to start from (.pt, .pth, .th, .safetensors).
    lr
        Highest learning rate.
    set
        Any other key of a recipe, such as ``train.batch=128``.
    """
    from thrifty.lab.recipe import make, overridden

    values: dict[str, Any] = {
        "model": budgeted(net, budget),
        "weights": weights,
        "data": data,
        "seeds": seeds,
        "train": given(epochs=epochs, lr=lr, gate=gate_given(gate_cost, gate)),
        "prune": {"method": []},
        "machine": given(threads=threads, workers=workers, device=device)
        | ({"distributed": True} if distributed else {}),
    }
    recipe = make(overridden(values, set or ()), "thrifty train", OPTIONS)
    run_and_show(recipe, out, json, quiet)


def budgeted(net: str, budget: str | None) -> str:
    """The network with a budget among its options.

    Raises:
        UserError: the budget cannot be read, or the network has no such option, or says it itself.
    """
    if budget is None:
        return net
    from thrifty.nets.budget import amount, takes_budget

    of, _, text = budget.partition("=")
    if of != "params" or not text:
        raise UserError(
            f"--budget {budget}: a network to train is budgeted by its parameters; write it as "
            f"params=40k"
        )
    spec = parse_spec(net)
    if not takes_budget(spec.name):
        raise UserError(
            f"--budget {budget}: {spec.name} has one size and takes no budget; give thriftynet, "
            f"or prune to a budget: thrifty prune {spec.name} --budget {budget}"
        )
    if "budget" in spec.options:
        raise UserError(f"{net} says a budget and so does --budget {budget}; give one of them")
    amount(text)
    return str(Spec(spec.name, {**spec.options, "budget": text}))


def gate_given(cost: float | None, spec: str | None) -> str | None:
    """The gate to train with."""
    if cost is None:
        return spec
    if spec is not None:
        raise UserError(
            f"--gate-cost is short for --gate highway?strength={cost}; give one of the two"
        )
    if not (math.isfinite(cost) and cost >= 0):
        raise UserError(f"--gate-cost is {cost:g}; it is a strength of 0 or more, such as 1e-2")
    return f"highway?strength={cost}"

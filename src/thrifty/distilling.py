"""``thrifty distill``: a small network that learns from a large one, and is a run as any other."""

from typing import Annotated, Any, Literal

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
from thrifty.trainings import OPTIONS, budgeted, gate_given

SAID = ("teacher", "kind", "temperature", "weight")

NAMES = (
    OPTIONS
    | {"model": "STUDENT"}
    | {"train.clip": "--clip"}
    | {f"train.distill.{key}": f"--{key}" for key in SAID}
    | {"train.distill.teacher_weights": "--teacher-weights"}
)
"""What the command calls the keys of a recipe."""


def distill(
    student: str,
    /,
    *,
    teacher: str,
    data: str,
    kind: Literal["kd", "dkd"] = "kd",
    temperature: float = 4.0,
    weight: float | None = None,
    teacher_weights: str | None = None,
    epochs: Whole = 20,
    budget: str | None = None,
    gate_cost: float | None = None,
    gate: str | None = None,
    seeds: Whole = 1,
    weights: str | None = None,
    lr: float | None = None,
    clip: float = 1.0,
    set: Annotated[list[str] | None, MANY] = None,
    out: Out = None,
    threads: Threads = None,
    workers: Workers = None,
    device: Device = None,
    distributed: Distributed = False,
    json: Json = False,
    quiet: Silent = False,
) -> None:
    """Train STUDENT by what a teacher says of the data, and measure it.

    The teacher is asked once where inputs are not augmented, else in every step.  Training inputs
    without a label are learnt from as well.  A run that was stopped goes on where it was.

    Example: ``thrifty distill lenet?width=.25 --teacher runs/lenet --data mnist:DIR --epochs 10``

    Parameters
    ----------
    student
        A network, as for ``thrifty prune``.
    teacher
        A run folder, a file that thrifty saved, or a network with weights:
        ``torchvision:resnet18?weights=DEFAULT``.
    data
        Data, as for ``thrifty prune``; ``DATA?labels=100`` forgets the other labels.
    kind
        ``kd`` is Hinton's distillation, ``dkd`` the decoupled one.
    temperature
        By which the logits of both are divided; the loss is multiplied by its square.
    weight
        Of the teacher against the labels, which have the rest: .9, of dkd .5, if not given.
    teacher_weights
        File of weights that fills the teacher, if that is the name of a network.
    epochs
        Epochs of training.
    budget
        What a student that can be of any size may cost: ``params=40k``.  For thriftynet.
    gate_cost
        Strength of the penalty on open gates of a highway network, as for ``thrifty train``.
    gate
        One of ``thrifty gates`` with options, to train with.
    seeds
        How many students are trained; others go on from the first.
    weights
        File of weights that the student starts from (.pt, .pth, .th, .safetensors).
    lr
        Highest learning rate.
    clip
        Largest norm of the gradient, which a teacher makes larger than labels do: a small network
        without batch normalisation lost 20 points without it.  None with ``train.clip=null``.
    set
        Any other key of a recipe, such as ``train.batch=128 train.distill.beta=2``.
    """
    from thrifty.lab.recipe import make, overridden

    said = given(
        teacher=teacher,
        teacher_weights=teacher_weights,
        kind=kind,
        temperature=temperature,
        weight=weight,
    )
    values: dict[str, Any] = {
        "model": budgeted(student, budget),
        "weights": weights,
        "data": data,
        "seeds": seeds,
        "train": given(
            epochs=epochs, lr=lr, gate=gate_given(gate_cost, gate), clip=clip, distill=said
        ),
        "prune": {"method": []},
        "machine": given(threads=threads, workers=workers, device=device)
        | ({"distributed": True} if distributed else {}),
    }
    recipe = make(overridden(values, set or ()), "thrifty distill", NAMES)
    run_and_show(recipe, out, json, quiet)

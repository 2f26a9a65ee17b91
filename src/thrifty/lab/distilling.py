"""Teachers of a run: found, checked against the data, and asked once where inputs never change.

A teacher is a run folder (its dense network), a file that thrifty saved, a network with weights of
its own, or the dense parent of what is retrained.  It is put on the device of the student; the
logits of unaugmented inputs lie in ``teachers/`` of the run.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from thrifty import files
from thrifty.data import Data
from thrifty.errors import MissingExtra, UserError
from thrifty.lab.measure import judge
from thrifty.nets import architecture_of, file_of, resolve
from thrifty.nets.factories import is_factory
from thrifty.nets.reading import PICKLES
from thrifty.pack import FORMATS, load
from thrifty.registry import parse_spec
from thrifty.training.answers import kept_answers
from thrifty.training.distillation import Distillation
from thrifty.training.loop import channels_last
from thrifty.training.plan import Plan
from thrifty.training.teachers import Teacher, check_labels

if TYPE_CHECKING:
    from thrifty.lab.steps import Lab
    from thrifty.lab.store import Step


def teacher_of(
    lab: "Lab", said: Distillation | None, plan: Plan, parent: "Step | None" = None
) -> Teacher | None:
    """The teacher that a recipe names, ready to teach; ``None`` if it names none.

    Args:
        lab: whose student it teaches.
        said: who teaches and how.
        plan: of the training; it decides whether inputs vary.
        parent: the dense network, which teaches where nobody is named.

    Raises:
        UserError: there is no such teacher, or it does not fit the data.
    """
    if said is None:
        return None
    if said.teacher is not None:
        model = _placed(lab, named_teacher(said, lab.data))
    else:
        assert parent is not None, "a recipe without a dense parent names its teacher"
        model = lab.build(parent.model).eval()
    how: dict[str, Any] = said.model_dump(exclude={"teacher", "teacher_weights"})
    logits = kept_answers(model, lab.data, plan, lab.store.root / "teachers")
    return Teacher(model, logits=logits, **how)


def named_teacher(said: Distillation, data: Data) -> nn.Module:
    """The network that ``said`` names, in eval mode on the CPU, seen to fit the data.

    Raises:
        UserError: there is none, it has no weights, or its inputs or classes are not the data's.
    """
    name = said.teacher or ""
    model: nn.Module = _told(lambda: _network(name, said.teacher_weights, data))
    model.float().eval()
    built = architecture_of(model)
    if built is not None and built.shape is not None and tuple(built.shape) != data.shape:
        raise UserError(
            f"the teacher {name} takes inputs of {_size(built.shape)}, and those of {data.name}, "
            f"which the student learns from, are {_size(data.shape)}; take a teacher of such "
            f"inputs, or resize the data (size=N)"
        )
    with torch.no_grad():
        try:
            outputs = model(data.prepare(data.test.inputs[:2]))
        except (RuntimeError, ValueError, IndexError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"the teacher {name} does not take inputs of {_size(data.shape)}, which "
                f"{data.name} has: {reason}"
            ) from None
    if not isinstance(outputs, torch.Tensor) or outputs.dim() != 2:
        raise UserError(f"the teacher {name} gives no logits (n, classes) to learn from")
    if outputs.shape[1] != data.classes:
        raise UserError(
            f"the teacher {name} tells {outputs.shape[1]} classes apart and the student "
            f"{data.classes}, those of {data.name}; take a teacher of the same classes"
        )
    return model


def _network(name: str, weights: str | None, data: Data) -> nn.Module:
    """The network of a file, a run or a name, with weights of some training."""
    file = file_of(name)
    if file is None:
        model = resolve(name, weights=weights, classes=data.classes, shape=data.shape)
        spec = parse_spec(name)
        own = spec.options.get("weights") or spec.options.get("pretrained")
        if not (weights or own or is_factory(spec.name)):
            raise UserError(
                f"{name} is a network without weights of any training, from which there is nothing "
                f"to learn; give a run folder, a file that thrifty saved, or a file of its "
                f"weights beside it (teacher_weights, --teacher-weights)"
            )
        return model
    if weights is not None:
        raise UserError(
            f"{name} has its own weights, and {weights} is given as well; leave one out"
        )
    if file.name.lower().endswith(PICKLES):
        raise UserError(
            f"{name} holds weights and does not say of which network; name the network as the "
            f"teacher, and this file as its weights (teacher_weights, --teacher-weights)"
        )
    ours = tuple(f.suffix for n in FORMATS.names() if (f := FORMATS.get(n)).suffix and f.read)
    return load(file) if file.name.lower().endswith(ours) else resolve(name)


def teacher_digest(said: Distillation | None) -> str | None:
    """SHA-256 of the file that a named teacher's weights lie in, where that is a file."""
    if said is None or said.teacher is None:
        return None
    weights = said.teacher_weights
    place = Path(weights) if weights is not None else _told(lambda: file_of(said.teacher or ""))
    if place is None:
        return None
    if not place.is_file():
        raise UserError(f"teacher_weights: {place}: there is no such file")
    return files.digest(place)


def rehearse_teachers(lab: "Lab", tell: Callable[[dict[str, Any]], None]) -> None:
    """Show before any training that the teachers can teach, and tell how good they are.

    Raises:
        UserError: a teacher is not there or does not fit, or nothing would be learnt.
    """
    recipe, data = lab.recipe, lab.data
    if recipe.train.distill is not None and not recipe.train.epochs:
        raise UserError(
            f"train.distill: {recipe.train.distill.teacher} teaches in training, and train.epochs "
            f"is 0; give epochs, or leave the teacher out"
        )
    retrains = bool(lab.chains.methods and recipe.retrain.epochs)
    trainings = [(recipe.train.distill, recipe.train.epochs), (recipe.retrain.taught, retrains)]
    told: set[tuple[str, str | None]] = set()
    for said, happens in trainings:
        if not happens:
            continue
        check_labels(data, None if said is None else said.share)
        if said is None or said.teacher is None:
            continue
        model = _placed(lab, named_teacher(said, data))
        if Path(said.teacher).resolve() == lab.store.root.resolve():
            raise UserError(
                f"{said.teacher} is the folder of this run and its teacher too, which the student "
                f"would replace; give --out another folder"
            )
        if (said.teacher, said.teacher_weights) not in told:
            told.add((said.teacher, said.teacher_weights))
            tell({"message": f"teacher {said.teacher}: {_figures(model, data)}"})


def _figures(model: nn.Module, data: Data) -> str:
    params = sum(p.numel() for p in model.parameters())
    right = 100 * judge(model, data).accuracy
    return f"{params:,} parameters, {right:.2f} % of the test inputs right"


def _placed(lab: "Lab", model: nn.Module) -> nn.Module:
    model = model.to(lab.device)
    if lab.recipe.train.channels_last:
        channels_last(model, lab.data)
    return model


def _told(find: Callable[[], Any]) -> Any:
    """What ``find`` returns; its errors say that it was about the teacher."""
    try:
        return find()
    except MissingExtra:
        raise
    except UserError as error:
        raise UserError(f"teacher: {error}") from None


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))

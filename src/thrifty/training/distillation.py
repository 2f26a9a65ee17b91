"""What a recipe says of learning from a teacher, as plain values: ``train.distill`` and
``retrain.distill``.

``kind: kd`` is Hinton's: (1 - weight) * task + weight * T^2 * KL(teacher || student), both
softened by the temperature T.  The factor T^2 keeps the gradient of its size when T changes, so
that ``weight`` means the same at every temperature.  Scripts without that factor are put into
these words by dividing theirs by T^2: task + 10 * KL at T = 10, the published script of ThriftyNet,
is task + 0.1 * T^2 * KL, in proportion ``temperature: 10, weight: .0909`` (1 to 10), the whole loss
10/11 of theirs.

``kind: dkd`` is Zhao's: task + rise * (alpha * TCKD + beta * NCKD), the two parts of Hinton's loss
with weights of their own, where ``rise`` goes from 0 to 1 in the share ``warmup`` of training: 20
of 240 epochs in the published setting.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from thrifty.errors import UserError

Kind = Literal["kd", "dkd"]

TEMPERATURE, ALPHA, BETA = 4.0, 1.0, 8.0
WARMUP = 1 / 12
WEIGHTS: dict[Kind, float] = {"kd": 0.9, "dkd": 0.5}
"""The weight of a kind that is given none."""


def share_of(kind: Kind, weight: float | None) -> float:
    """The weight of the teacher against the labels, 0..1."""
    return WEIGHTS[kind] if weight is None else weight


class Distillation(BaseModel):
    """Whom a network learns from besides its labels, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: Annotated[str, Field(min_length=1)] | None = None
    """A run folder, whose dense network teaches, a file that thrifty saved, or a network with
    weights; the dense parent, where there is one, if not given."""
    teacher_weights: str | None = None
    """A file of weights that fills ``teacher``, where that is the name of a network."""
    kind: Kind = "kd"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = TEMPERATURE
    """By which the logits of both are divided."""
    weight: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of the teacher against the labels, which have 1 - weight; .9 for kd and .5 for dkd, of which
    both parts count twice, so that .5 is the published sum."""
    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)] = ALPHA
    """dkd: weight of the class of an input against all others (TCKD)."""
    beta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = BETA
    """dkd: weight of how the other classes compare (NCKD); published are 2 to 8."""
    warmup: Annotated[float, Field(ge=0, le=1)] = WARMUP
    """dkd: share of training in which the teacher's part rises from 0."""

    @property
    def share(self) -> float:
        """The weight of the teacher against the labels, 0..1."""
        return share_of(self.kind, self.weight)

    @model_validator(mode="after")
    def _fits(self) -> "Distillation":
        if self.teacher_weights is not None and self.teacher is None:
            raise UserError("teacher_weights fill the network that teacher names; give both")
        plain = {"alpha": ALPHA, "beta": BETA, "warmup": WARMUP}
        given = [name for name, value in plain.items() if getattr(self, name) != value]
        if self.kind != "dkd" and given:
            raise UserError(f"{' and '.join(given)}: of kind dkd alone; give kind: dkd, or none")
        if not self.alpha and not self.beta:
            raise UserError("alpha and beta are 0, so that the teacher counts for nothing")
        return self


class Taught(Distillation):
    """The same where there is no dense parent: a teacher has to be named."""

    teacher: Annotated[str, Field(min_length=1)]

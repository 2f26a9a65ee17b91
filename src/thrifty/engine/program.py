"""A network as a list of operations: what a file carries and the engine runs.

Values are float32 with the batch first; their shapes are written without it.  An image is
(channels, height, width), features are (n,), and anything else is only moved or given to torch.
Operations stand in an order in which they can be run, and every value is written once.  Weights
are not in a program: an operation names tensors of the file by the role they play, and batch
normalisation stays apart from the weights before it, so that a file holds a network's own tensors.

A program is checked when it is made, whoever made it: names, references, shapes and sizes, each
operation by the rules of its kind (:mod:`thrifty.engine.kinds`).  What depends on the weights is
checked by :meth:`Program.check_tensors`, once their shapes are known.  So what runs a program need
not doubt it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thrifty.engine.fallbacks import check_fallback
from thrifty.engine.kinds import KINDS, check_attrs
from thrifty.engine.shapes import Shape, check_output, check_roles
from thrifty.errors import UserError
from thrifty.registry import suggest

VERSION = 1
MOST_OPS, MOST_VALUES, MOST_INPUTS, MOST_NAME = 50_000, 100_000, 4_096, 512
MOST_RANK = 8
MOST_ELEMENTS = 1 << 28
"""Elements of one value of one image: 1 GiB of float32."""
OWN = "program:"
"""What names of tensors begin with that are constants of the program, and no network's own."""

__all__ = ["OWN", "VERSION", "Op", "Program", "Shape"]


@dataclass(frozen=True)
class Op:
    """One operation, which writes one value.

    Args:
        kind: one of :data:`thrifty.engine.kinds.KINDS`.
        name: the dotted name of the module it comes from, for people; may be empty.
        inputs: names of values; those after the ones the kind takes belong to ``attrs["then"]``.
        output: the name of the value written.
        tensors: role, such as ``weight``, to the name of a tensor of the file.
        attrs: JSON values, by kind.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    output: str
    tensors: Mapping[str, str] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def then(self) -> Sequence[Mapping[str, Any]]:
        """The steps that follow in place, in order; empty where the kind has none."""
        steps: Sequence[Mapping[str, Any]] = self.attrs.get("then", ())
        return steps

    def to_json(self) -> dict[str, Any]:
        """What :meth:`Program.to_json` writes of it."""
        return {
            "kind": self.kind,
            "name": self.name,
            "inputs": list(self.inputs),
            "output": self.output,
            "tensors": dict(self.tensors),
            "attrs": dict(self.attrs),
        }


@dataclass(frozen=True)
class Program:
    """Operations in order, the values between them, and which go in and out.

    Args:
        inputs: values that are given, at least one.
        outputs: values that are the answer, at least one.
        values: name to shape without the batch; exactly the inputs and what operations write.
        ops: in an order of execution.

    Raises:
        UserError: a rule is broken; the message names the operation and the rule.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, Shape]
    ops: tuple[Op, ...]

    def __post_init__(self) -> None:
        _check_values(self.values)
        written = _check_inputs(self)
        if len(self.ops) > MOST_OPS:
            raise UserError(f"the program has {len(self.ops):,} operations, over {MOST_OPS:,}")
        for number, op in enumerate(self.ops):
            where = _where(number, op)
            _check_op(self, op, written, where)
            written.add(op.output)
        if unwritten := sorted(set(self.values) - written):
            raise UserError(f"the program lists the value {unwritten[0]!r}, which nothing writes")
        if not self.outputs or len(self.outputs) > MOST_INPUTS:
            raise UserError(f"the program has {len(self.outputs)} outputs; it needs one or more")
        for name in self.outputs:
            if name not in written:
                raise UserError(f"the program gives the value {name!r}, which nothing writes")

    @property
    def tensors(self) -> list[str]:
        """Names of all tensors that operations ask for, each once, in order of first use."""
        return list(dict.fromkeys(name for op in self.ops for name in op.tensors.values()))

    def check_tensors(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Check that the tensors of these shapes are those that the operations need.

        Args:
            shapes: the name of a tensor to its shape; others than those named may be there.

        Raises:
            UserError: one is missing, or does not fit its operation; the message names both.
        """
        for number, op in enumerate(self.ops):
            where = _where(number, op)
            for role, name in op.tensors.items():
                if name not in shapes:
                    raise UserError(
                        f"{where}: its {role} is the tensor {name!r}, which is not there; "
                        f"{suggest(name, shapes)}"
                    )
            of_roles = {role: tuple(shapes[name]) for role, name in op.tensors.items()}
            ins = [self.values[name] for name in op.inputs]
            check_roles(op.kind, op.attrs, ins, self.values[op.output], of_roles, where)

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dicts, strings and numbers, which :meth:`from_json` takes back."""
        return {
            "version": VERSION,
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "values": {name: list(shape) for name, shape in self.values.items()},
            "ops": [op.to_json() for op in self.ops],
        }

    @staticmethod
    def from_json(data: object) -> "Program":
        """A program from JSON that nobody vouches for.

        Raises:
            UserError: it is no program, or breaks a rule; the message names the operation.
        """
        fields = _fields(data, "the program", ("version", "inputs", "outputs", "values", "ops"))
        if fields["version"] != VERSION or isinstance(fields["version"], bool):
            raise UserError(
                f"the program is of version {str(fields['version'])[:40]!r}, and this thrifty "
                f"runs version {VERSION}; upgrade thrifty, or lower the network again"
            )
        values = fields["values"]
        if not isinstance(values, dict):
            raise UserError("the program's 'values' is no object of shapes")
        shapes = {name: _shape(shape, name) for name, shape in values.items()}
        if not isinstance(fields["ops"], list):
            raise UserError("the program's 'ops' is no list")
        if len(fields["ops"]) > MOST_OPS:
            raise UserError(f"the program has {len(fields['ops']):,} operations, over {MOST_OPS:,}")
        return Program(
            inputs=_names(fields["inputs"], "the program's 'inputs'"),
            outputs=_names(fields["outputs"], "the program's 'outputs'"),
            values=shapes,
            ops=tuple(_op(op, number) for number, op in enumerate(fields["ops"])),
        )


def _where(number: int, op: Op) -> str:
    return f"operation {number} ({str(op.kind)[:40]} {ascii(op.name or op.output)[:80]})"


def _check_values(values: Mapping[str, Shape]) -> None:
    if len(values) > MOST_VALUES:
        raise UserError(f"the program has {len(values):,} values, over {MOST_VALUES:,}")
    for name, shape in values.items():
        _check_name(name, "a value of the program")
        size = 1
        for side in shape:
            if not isinstance(side, int) or isinstance(side, bool) or side < 1:
                raise UserError(
                    f"the value {name!r} has the shape {str(shape)[:80]}; sides are whole numbers "
                    f"from 1"
                )
            size *= side
            if size > MOST_ELEMENTS:
                raise UserError(
                    f"the value {name!r} has the shape {str(shape)[:80]}, over {MOST_ELEMENTS:,} "
                    f"elements"
                )
        if len(shape) > MOST_RANK:
            raise UserError(f"the value {name!r} has {len(shape)} dimensions, over {MOST_RANK}")


def _check_inputs(program: Program) -> set[str]:
    if not program.inputs or len(program.inputs) > MOST_INPUTS:
        raise UserError(f"the program has {len(program.inputs)} inputs; it needs one or more")
    if len(set(program.inputs)) < len(program.inputs):
        raise UserError("the program lists one input twice")
    for name in program.inputs:
        if name not in program.values:
            raise UserError(f"the program's input {name!r} has no shape in 'values'")
    return set(program.inputs)


def _check_op(program: Program, op: Op, written: set[str], where: str) -> None:
    if op.kind not in KINDS:
        raise UserError(f"{where}: no such kind; {suggest(str(op.kind)[:40], KINDS)}")
    if not isinstance(op.name, str) or len(op.name) > MOST_NAME or not op.name.isprintable():
        raise UserError(f"{where}: its name is no string of up to {MOST_NAME} printable characters")
    if len(op.inputs) > MOST_INPUTS:
        raise UserError(f"{where}: {len(op.inputs):,} inputs, over {MOST_INPUTS:,}")
    for name in op.inputs:
        if name not in written:
            raise UserError(f"{where}: it reads the value {name!r}, which nothing before it writes")
    if op.output in written:
        raise UserError(f"{where}: it writes the value {op.output!r}, which is written already")
    if op.output not in program.values:
        raise UserError(f"{where}: the value {op.output!r} it writes has no shape in 'values'")
    for role, name in op.tensors.items():
        _check_name(role, f"{where}: a role")
        _check_name(name, f"{where}: the tensor of the role {role!r}")
    ins = [program.values[name] for name in op.inputs]
    out = program.values[op.output]
    check_attrs(op.kind, op.attrs, op.tensors, len(op.inputs), where)
    if op.kind == "fallback":
        check_fallback(op.attrs, op.tensors, ins, out, where)
    check_output(op.kind, op.attrs, ins, out, where)


def _check_name(name: object, what: str) -> None:
    if not isinstance(name, str) or not name or len(name) > MOST_NAME or not name.isprintable():
        raise UserError(
            f"{what} is called {str(name)[:80]!r}; a name has 1 to {MOST_NAME} printable characters"
        )


def _fields(data: object, what: str, keys: Sequence[str]) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise UserError(f"{what} is no JSON object")
    if set(data) != set(keys):
        odd = sorted(str(key)[:40] for key in set(data) ^ set(keys))
        raise UserError(f"{what} has the fields {', '.join(keys)} and no others; see {odd[0]!r}")
    return data


def _names(data: object, what: str) -> tuple[str, ...]:
    if not isinstance(data, list) or len(data) > MOST_INPUTS:
        raise UserError(f"{what} is no list of up to {MOST_INPUTS:,} names")
    for name in data:
        _check_name(name, what)
    return tuple(data)


def _shape(data: object, name: str) -> Shape:
    if not isinstance(data, list) or len(data) > MOST_RANK:
        raise UserError(f"the value {name[:80]!r} has no list of up to {MOST_RANK} sides as shape")
    return tuple(data)


def _op(data: object, number: int) -> Op:
    where = f"operation {number}"
    keys = ("kind", "name", "inputs", "output", "tensors", "attrs")
    fields = _fields(data, where, keys)
    if not isinstance(fields["kind"], str) or not isinstance(fields["name"], str):
        raise UserError(f"{where}: 'kind' and 'name' must be strings")
    if not isinstance(fields["tensors"], dict) or not isinstance(fields["attrs"], dict):
        raise UserError(f"{where}: 'tensors' and 'attrs' must be objects")
    _check_name(fields["output"], f"{where}: its output")
    return Op(
        kind=fields["kind"],
        name=fields["name"],
        inputs=_names(fields["inputs"], f"{where}: 'inputs'"),
        output=fields["output"],
        tensors=fields["tensors"],
        attrs=fields["attrs"],
    )

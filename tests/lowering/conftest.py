"""What tests of lowering share: lower, compare with the network, give the program."""

from collections import Counter

import pytest
import torch

from thrifty.engine.program import Program
from thrifty.lowering import lower
from thrifty.lowering.interpreting import interpret


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def same():
    """Lower a network, compare at three sizes of batch, and give the program."""

    def compare(model, *shapes, kinds=None, fallbacks=(), tolerance=1e-5):
        example = [torch.randn(2, *shape) for shape in shapes]
        model.eval()
        lowered = lower(model, example, check=False)
        program = Program.from_json(lowered.program.to_json())
        for batch in (1, 2, 5):
            inputs = [torch.randn(batch, *shape) for shape in shapes]
            with torch.no_grad():
                expected = model(*inputs)
            given = interpret(program, lowered.tensors, *inputs)
            one = expected if isinstance(expected, tuple) else (expected,)
            two = given if isinstance(given, tuple) else (given,)
            for a, b in zip(one, two, strict=True):
                assert a.shape == b.shape
                assert float((a - b).abs().max()) <= tolerance * float(a.abs().max())
        targets = {op.attrs["target"] for op in program.ops if op.kind == "fallback"}
        assert targets == {f"aten.{name}" for name in fallbacks}
        if kinds is not None:
            assert Counter(op.kind for op in program.ops) == Counter(kinds)
        return program

    return compare

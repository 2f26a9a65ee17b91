"""Networks on the CPU without torch: a program of operations, and what runs it.

>>> from thrifty import engine
>>> net = engine.load("net.thrifty", threads=2)  # doctest: +SKIP
>>> net(pictures)  # doctest: +SKIP
"""

from thrifty.engine.engine import Engine, OpTime
from thrifty.engine.loading import load
from thrifty.engine.program import Op, Program

__all__ = ["Engine", "Op", "OpTime", "Program", "load"]

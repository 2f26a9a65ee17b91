"""Engines and processes: forks, pickles, and a process that has no torch."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from thrifty.engine import Engine, Op, Program
from thrifty.errors import UserError
from thrifty.native import available

pytestmark = pytest.mark.skipif(available() == ("numpy",), reason="the engine was not compiled")


def engine(threads):
    grid = {"stride": [1, 1], "padding": [1, 1, 1, 1], "dilation": [1, 1], "groups": 1}
    op = Op("conv", "", ("x",), "y", {"weight": "w"}, grid)
    weight = np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32)
    values = {"x": (4, 16, 16), "y": (8, 16, 16)}
    return Engine(Program(("x",), ("y",), values, (op,)), {"w": weight}, threads)


def answer(net, x, connection):
    connection.send(net(x))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("used", [False, True], ids=["unused", "used before"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_a_pool_of_its_own(used):
    net = engine(threads=3)
    x = np.random.default_rng(1).standard_normal((7, 4, 16, 16)).astype(np.float32)
    if used:
        net(x)  # the pool's threads are there, and the child has none of them
    fork = multiprocessing.get_context("fork")
    mine, theirs = fork.Pipe()
    child = fork.Process(target=answer, args=(net, x, theirs))
    child.start()
    assert mine.poll(60), "the child hangs"
    found = mine.recv()
    child.join(60)
    assert child.exitcode == 0
    assert np.array_equal(found, net(x))


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_an_engine_is_not_pickled_and_the_error_says_what_to_do(take):
    with pytest.raises(UserError, match="give other processes the .thrifty file"):
        take(engine(threads=1))


def test_the_engine_is_imported_without_what_it_does_not_need():
    heavy = "{'torch', 'pydantic', 'safetensors', 'rich', 'cyclopts', 'yaml'}"
    code = f"import sys, thrifty.engine; sys.exit(', '.join({heavy} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

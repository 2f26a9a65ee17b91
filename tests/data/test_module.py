import sys

import pytest

from thrifty.data import load_data
from thrifty.errors import UserError

SOURCE = """
import numpy as np, torch
from thrifty.data import Data, Split

def arrays(n=20, *, seed=0, classes=2):
    x = np.random.default_rng(seed).random((n, 4)).astype(np.float32)
    y = np.arange(n) % classes
    return x, y, x[:4], y[:4]

def named(n=20):
    return dict(zip(("x_train", "y_train", "x_test", "y_test"), arrays(n)))

def tensors():
    return tuple(map(torch.from_numpy, arrays()))

def data():
    split = Split(torch.zeros(4, 1, 3, 3), torch.tensor([0, 1, 0, 1]))
    return Data("mine", split, split, 2, mean=(0.25,), std=(2.0,), shift=1)

def nothing():
    return None

value = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch, request):
    """A current directory with a module of its own name, and that name."""
    name = f"made_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize("function", ["arrays", "named", "tensors"])
def test_arrays_come_as_a_tuple_or_by_name(here, function):
    data = load_data(f"module:{here}:{function}")
    assert (len(data.train), len(data.test), data.shape, data.classes) == (20, 4, (4,), 2)


def test_options_and_the_seed_reach_the_function(here):
    data = load_data(f"module:{here}:arrays?n=30&classes=3&train=12")
    assert (len(data.train), data.classes) == (12, 3)
    assert data.digest != load_data(f"module:{here}:arrays?n=30&classes=3&train=12&seed=1").digest


def test_a_data_keeps_its_moments_unless_told(here):
    data = load_data(f"module:{here}:data")
    assert (data.mean, data.std, data.shift) == ((0.25,), (2.0,), 1)
    assert data.name == f"module:{here}:data"
    assert load_data(f"module:{here}:data?normalize=half").mean == (0.5,)


def test_the_search_path_is_as_before(here):
    before = list(sys.path)
    load_data(f"module:{here}:arrays")
    with pytest.raises(UserError):
        load_data("module:broken:arrays")
    assert sys.path == before


@pytest.mark.parametrize(
    "location, message",
    [
        ("", "write module:package.module:callable"),
        ("HERE", "write module:package.module:callable"),
        ("no_such:arrays", "importing no_such failed"),
        ("broken:arrays", "ZeroDivisionError"),
        ("HERE:arays", "did you mean arrays"),
        ("HERE:value", "no function 'value'"),
        ("HERE:nothing", "returned NoneType"),
        ("HERE:arrays?m=3", "no option 'm'"),
        ("HERE:arrays?classes=1", "classes is 1"),
    ],
)
def test_a_mistake_is_explained(here, location, message):
    with pytest.raises(UserError, match=message):
        load_data(f"module:{location.replace('HERE', here)}")

import importlib.util
import os
from pathlib import Path

import pytest

from thrifty._compat import import_timm, import_torchvision


@pytest.fixture
def torchvision():
    return _optional("torchvision", import_torchvision)


@pytest.fixture
def timm():
    return _optional("timm", import_timm)


@pytest.fixture
def published():
    """The folder of published CIFAR-10 weights."""
    folder = os.environ.get("THRIFTY_DATA")
    if not folder:
        pytest.skip("THRIFTY_DATA is not set")
    return Path(folder) / "weights" / "cifar10"


def _optional(package, imported):
    # pytest.importorskip knows ImportError only; a torchvision without operators raises another.
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    return imported()

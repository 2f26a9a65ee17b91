"""Guards on the shape of the package: what may import what, how long, how quiet, how documented."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import thrifty

PACKAGE = Path(thrifty.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = {
    "errors": 0,
    "cores": 0,
    "registry": 0,
    "files": 0,
    "shown": 0,
    "_compat": 0,
    "native": 0,
    "nets": 1,
    "sources": 1,
    "data": 1,
    "container": 1,
    "engine": 2,
    "channels": 2,
    "lowering": 3,
    "pruning": 3,
    "population": 4,
    "zoo": 5,
    "zoos": 6,
    "training": 3,
    "pack": 4,
    "compiling": 5,
    "lab": 5,
    "census": 5,
    "report": 5,
    "recipes": 5,
    "cli": 6,
    "looks": 6,
    "sensitivities": 6,
    "surgeries": 6,
    "running": 6,
    "trainings": 6,
    "distilling": 6,
    "progress": 6,
    "endings": 6,
    "listings": 6,
    "rivals": 4,
    "subjects": 6,
    "exports": 6,
    "packings": 6,
    "benching": 6,
    "__main__": 6,
}
EXEMPT = {"__init__"}  # the package itself: it imports what is asked for, when it is asked for
NEVER = {("pruning", "training")}
ONLY_IN_FUNCTIONS = {("lab", "report"), ("census", "report")}

TALKING = (
    "cli",
    "looks",
    "progress",
    "listings",
    "endings",
    "sensitivities",
    "surgeries",
    "exports",
    "packings",
    "benching",
    "running",
    "zoos",
)
"""Rooms that may print."""

LONGER: dict[str, int] = {}
"""Files that may have more than 400 lines, and how many; each needs a reason here."""

HEAVY = (
    "altair",
    "vl_convert",
    "torchvision",
    "timm",
    "datasets",
    "huggingface_hub",
    "pyarrow",
    "PIL",
    "pandas",
    "sklearn",
    "h5py",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "keras",
    "ray",
)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> list[tuple[str, bool, int]]:
    """(room, whether in a function, line) of every import of thrifty's own."""
    found = []

    def visit(node: ast.AST, inside: bool) -> None:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            names = [node.module or ""]
            if node.module == "thrifty":
                names = [f"thrifty.{alias.name}" for alias in node.names]
        for name in names:
            first, _, rest = name.partition(".")
            if first == "thrifty":
                found.append((rest.partition(".")[0], inside, node.lineno))
        inside = inside or isinstance(node, ast.FunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(tree, False)
    return found


def calls(tree: ast.AST, name: str) -> list[int]:
    return [
        n.lineno
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == name
    ]


def test_every_room_has_a_floor():
    assert {room(path) for path in FILES} - EXEMPT <= set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    here = room(path)
    if here in EXEMPT:
        return
    for there, inside, line in imports(ast.parse(path.read_text())):
        if there not in FLOORS:
            assert there in ("", "__version__"), f"line {line}: thrifty.{there} is on no floor"
            continue
        assert (here, there) not in NEVER, f"line {line}: {here} imports {there}"
        assert FLOORS[here] >= FLOORS[there], f"line {line}: {here} reaches up to {there}"
        if (here, there) in ONLY_IN_FUNCTIONS:
            assert inside, f"line {line}: {here} imports {there} outside a function"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_is_short_quiet_and_finished(path):
    text = path.read_text()
    name = str(path.relative_to(PACKAGE))
    assert len(text.splitlines()) <= LONGER.get(name, 400)
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)
    assert text.isascii()
    tree = ast.parse(text)
    if room(path) not in TALKING:
        assert not calls(tree, "print"), "results are returned, not printed"
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name | ast.Call):
            call = node.exc if isinstance(node.exc, ast.Call) else None
            target = call.func if call else node.exc
            error = target.id if isinstance(target, ast.Name) else ""
            assert error != "NotImplementedError", f"line {node.lineno}"
            if error.endswith("Error") or error in ("Exception", "UnknownName", "Diverged"):
                assert call and call.args, f"line {node.lineno}: {error} says nothing"


def test_nothing_heavy_is_imported_before_it_is_used():
    code = f"""
import importlib, pkgutil, sys
for name in {HEAVY!r}:
    sys.modules[name] = None
import thrifty
for module in pkgutil.walk_packages(thrifty.__path__, "thrifty."):
    if module.name != "thrifty.__main__":
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_thrifty_imports_no_torch():
    code = "import sys, thrifty, thrifty.cli; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("name", sorted(set(thrifty.__all__) - {"__version__"}))
def test_a_public_name_is_there_and_documented(name):
    assert inspect.getdoc(getattr(thrifty, name))


def test_public_names_are_those_that_can_be_had():
    assert sorted(thrifty.__all__) == thrifty.__dir__()
    assert set(thrifty._HOMES) == set(thrifty.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        _ = thrifty.prun


def test_every_example_in_a_docstring_is_true():
    tried = 0
    for module in pkgutil.walk_packages(thrifty.__path__, "thrifty."):
        if module.name == "thrifty.__main__":
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other packages, as they are imported
            found = importlib.import_module(module.name)
        result = doctest.testmod(found)
        assert result.failed == 0, module.name
        tried += result.attempted
    tried += doctest.testmod(thrifty).attempted
    assert tried > 20

"""What the documents say works: every Python block runs, every command line parses."""

import pkgutil
import re
import shlex
import sys
from pathlib import Path

import pytest

import thrifty
from thrifty.cli import app

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "results" / "README.md",
    ROOT / "docs" / "training.md",
]


def blocks(kind: str) -> list[tuple[str, str]]:
    return [
        (f"{path.name}-{number}", text)
        for path in DOCUMENTS
        for number, text in enumerate(
            re.findall(rf"^```{kind}[^\n]*\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
        )
    ]


PYTHON = blocks("python")
COMMANDS = [
    (name, line)
    for name, text in blocks("sh")
    for line in text.replace("\\\n", " ").splitlines()
    if line.startswith("thrifty ")
]


def test_there_are_documents_to_check():
    assert len(PYTHON) >= 2
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize(("name", "text"), PYTHON, ids=[n for n, _ in PYTHON])
def test_a_python_block_runs(name, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "altair", None)  # a report without pictures is quick
    exec(compile(text, name, "exec"), {"__name__": "block"})


@pytest.mark.parametrize(("name", "line"), COMMANDS, ids=[f"{n}: {c[:60]}" for n, c in COMMANDS])
def test_a_command_line_parses(name, line):
    command, bound, *_ = app.parse_args(
        shlex.split(line)[1:], exit_on_error=False, print_error=False
    )
    assert callable(command)
    assert bound is not None


def test_the_set_up_is_two_commands():
    text = re.search(r"^```sh setup\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert text is not None
    lines = text.group(1).splitlines()
    assert len(lines) == 2
    assert lines[1] == ".venv/bin/python -m pytest"


def test_every_file_the_documents_point_to_is_there():
    for path in [*DOCUMENTS, ROOT / "ARCHITECTURE.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} points to {target}"


def test_no_public_function_shares_its_name_with_a_module():
    """Importing the module would replace the function."""
    modules = {m.name for m in pkgutil.iter_modules(thrifty.__path__)}
    assert not modules & set(thrifty.__all__)

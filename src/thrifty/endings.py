"""How a command ends when it does not end well: one message on stderr, and an exit status.

0 all is well; 1 it ran and failed, or the answer is no; 2 a mistake in what was given, or what
the system refuses; 128 + n stopped by signal n, which is 130 for Ctrl-C.
"""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from cyclopts import CycloptsError, Token
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from thrifty.errors import UserError
from thrifty.registry import suggest

BROKEN_PIPE = 128 + 13
TYPES = {"int": "a whole number", "float": "a number"}


def end(error: BaseException, arguments: Sequence[str]) -> NoReturn:
    """Say what ended the command of those ``arguments``, and exit."""
    if isinstance(error, BrokenPipeError):  # as in thrifty nets | head -1
        _drop_stdout()
        sys.exit(BROKEN_PIPE)
    message, code = ending(error, arguments)
    if isinstance(error, OSError):
        _drop_stdout()
    print(message, file=sys.stderr)
    sys.exit(code)


def ending(error: BaseException, arguments: Sequence[str]) -> tuple[str, int]:
    """The message and the exit status."""
    if isinstance(error, KeyboardInterrupt):
        number = int(error.args[0]) if error.args else signal.SIGINT
        again = shlex.join(["thrifty", *arguments])
        return f"stopped; what is done is kept.  To go on:\n{again}", 128 + number
    if isinstance(error, CycloptsError):
        return f"thrifty: {told(error)}", 2
    if isinstance(error, UserError):
        return f"thrifty: {error}", error.code
    if not isinstance(error, OSError):
        raise error
    place = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error)
    if isinstance(error, FileExistsError | NotADirectoryError):
        reason = "a file is where a folder should be"
    return f"thrifty: {place}{reason}; mend that and run again, what is done is kept", 2


def whole(_: type[int], tokens: Sequence[Token]) -> int:
    """A whole number of what was typed; cyclopts by itself rounds 1.5."""
    return int(tokens[0].value)


def told(error: CycloptsError) -> str:
    """What is wrong, and which help to read.

    Args:
        error: what cyclopts says of arguments it cannot bind.
    """
    error.verbose = False
    command = " ".join(("thrifty", *(error.command_chain or ())))
    wrong = _wrong(error, command)
    return f"{wrong}{'  See' if wrong.endswith('?') else '; see'} {command} --help"


def _wrong(error: CycloptsError, command: str) -> str:
    if isinstance(error, UnknownCommandError) or (
        isinstance(error, UnusedCliTokensError) and _commands(error)
    ):
        given = (error.unused_tokens or [""])[0]
        return f"{command} has no command {given!r}; {suggest(given, _commands(error))}"
    if isinstance(error, UnusedCliTokensError):
        return f"{command} does not take {' '.join(error.unused_tokens or [])!r}"
    if isinstance(error, UnknownOptionError):
        given = (error.token.keyword or error.token.value).partition("=")[0]
        known = [n for a in error.argument_collection for n in a.names if n.startswith("--")]
        return f"{command} has no option {given}; {suggest(given, known)}"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.keyword or error.argument.name
        if error.keyword or error.argument.tokens:
            return f"{name} needs a value"
        return f"{command} needs {name}" + ("" if name.startswith("-") else " before any option")
    if isinstance(error, CoercionError) and error.token is not None and error.argument is not None:
        kind = next((v for k, v in TYPES.items() if k in str(error.target_type)), "something else")
        name = error.token.keyword or error.argument.name
        return f"{name} is {error.token.value!r}; it must be {kind}"
    if isinstance(error, RepeatArgumentError):
        return f"{error.token.keyword} is given twice; give it once"
    return " ".join(str(error).split()).rstrip(".")


def _commands(error: CycloptsError) -> list[str]:
    """The commands that could have been meant."""
    return [] if error.app is None else [n for n in error.app if not n.startswith("-")]


def _drop_stdout() -> None:
    """Let nothing more be written there, so that Python does not fail to do so at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""What goes wrong because of what a user gave, told so that the user can mend it.

The command line prints such an error as it is, without a traceback, and exits with its ``code``:
2 for a mistake in what was given, 1 where all was right and the outcome is not what was hoped for.
A message says what was given, where, what is allowed and what to do.
"""


class UserError(ValueError):
    """A mistake in what was given; the message is written for the person who gave it."""

    code = 2


class UnknownName(UserError, KeyError):
    """No entry of that name; the message says which names are close."""

    def __str__(self) -> str:
        return str(self.args[0])


class MissingExtra(UserError, ImportError):
    """A package of an optional extra is needed and is not installed."""

    def __init__(self, extra: str, package: str, purpose: str):
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed; "
            f"run: pip install 'thrifty[{extra}]'"
        )


class Diverged(UserError, ArithmeticError):
    """A loss or a weight became NaN or infinite; the message says where and what was kept."""

    code = 1


class Unfinished(UserError):
    """Some jobs of a run failed; the others are done and their records written."""

    code = 1


class NoPoint(UserError):
    """No point of a front is good enough: an answer, and no mistake of whoever asked."""

    code = 1

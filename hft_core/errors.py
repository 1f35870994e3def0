"""Every error that hft raises for a user to read; light (standard library only).

An error's message is one line: what is wrong and where, what was expected, and the nearest valid name. The command
line prints that line and exits with the class's `exit_code`; a host that embeds hft catches `HftError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HftError(Exception):
    """Base of all errors meant for the user."""

    exit_code = 1
    label = "error: "
    """What the command line writes before the message."""

    def __str__(self) -> str:
        """The message, on one line whatever names and texts of files it quotes."""
        return " ".join(super().__str__().splitlines())


class RunError(HftError):
    """A run that had begun could not go on (non-finite losses, a full disk, …)."""


class UsageError(HftError):
    """The request itself is wrong: found before anything is trained."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe (YAML, flags or Python) does not say what a recipe must say."""


class PluginError(UsageError):
    """A plugin that was asked for is unknown, broken, blocked, ambiguous, or refuses its options."""


class DataError(UsageError):
    """A data file, or a row in it, is not what its task needs."""


class ModelError(UsageError):
    """A model folder or a finished run cannot be opened."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that helps with an unknown `name`: the nearest known one, or all of them when none is near.

    Returns text that starts with a blank, to be appended to a message, or an empty string when nothing is known.
    """
    candidates = sorted({str(k) for k in known})
    near = difflib.get_close_matches(name.lower(), candidates, n=1, cutoff=0.6)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Known: {', '.join(candidates)}." if candidates else ""

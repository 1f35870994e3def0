"""Every error that hft raises for a user to read; light (standard library only).

An error's message is one line: what is wrong and where, what was expected, and the nearest valid name. The command
line prints that line and exits with the class's `exit_code`; a host that embeds hft catches `HftError`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from hft_core.sanitize import without_passwords

LONGEST, LONGEST_WORD = 8_000, 4_400
"""Characters of a message, and of one word in it: the longest path of Linux has 4,096."""
LONGEST_NAME, MOST_NAMES = 200, 100
"""A longer name is like no other; more names than this are not all listed."""
_LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


class HftError(Exception):
    """Base of all errors meant for the user."""

    exit_code = 1
    label = "error: "
    """What the command line writes before the message."""

    def __str__(self) -> str:
        """The message, on one line whatever names and texts of files it quotes, without secrets and not too long."""
        return shortened(without_passwords(" ".join(super().__str__().splitlines())))


def shortened(text: str) -> str:
    """Return `text` with the middle of overlong words, such as a key of 200,000 characters, and of the whole left
    out."""
    words = _LONG_WORD.sub(lambda word: f"{word[0][: LONGEST_WORD // 2]}…{word[0][-LONGEST_WORD // 4 :]}", text)
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 500]} … {words[-400:]}"


class RunError(HftError):
    """A run that had begun could not continue (non-finite losses, a full disk, …)."""


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
    if len(name) > LONGEST_NAME:
        return ""
    near = difflib.get_close_matches(name.lower(), candidates, n=1, cutoff=0.6)
    if near:
        return f" Did you mean '{near[0]}'?"
    shown = [*candidates[:MOST_NAMES], "…"] if len(candidates) > MOST_NAMES else candidates
    return f" Known: {', '.join(shown)}." if candidates else ""

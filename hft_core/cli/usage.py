"""Convert typer's parse errors to `UsageError`: one line, with the nearest name."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from hft_core.errors import UsageError

REFUSED: type[Exception] = typer.BadParameter.__base__  # type: ignore[assignment]
"""The base class of what typer's parser raises, with and without click as a dependency."""


def usage_error(error: Exception, command: str, options: Iterable[str]) -> UsageError:
    """Convert the error of a `command` (`hft run`) that has these `options`."""
    unknown = getattr(error, "option_name", "")
    if unknown and getattr(error, "possibilities", None) is not None:
        from hft_core.recipe.did_you_mean import suggest_flag

        message = f"there is no option {unknown}.{suggest_flag(unknown, list(options))}"
    else:
        found = error.format_message()  # type: ignore[attr-defined]
        text = " ".join(found.replace("Input should be", "expected").replace("Value error, ", "").split())
        message = f"{text[:1].lower()}{text[1:].rstrip('.')}; see '{command} --help'"
    return UsageError(f"{command}: {message}")

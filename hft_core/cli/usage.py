"""What typer says of a line that it cannot read, as an error like all others: one line, with the nearest name."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from hft_core.errors import UsageError, did_you_mean

REFUSED: type[Exception] = typer.BadParameter.__base__  # type: ignore[assignment]
"""What typer's parser raises. The parser was click's and is a part of typer now; in both this is the base class."""


def usage_error(error: Exception, called: str, options: Iterable[str]) -> UsageError:
    """The error of the line that was `called` (`hft run`), whose command has these `options`."""
    unknown = getattr(error, "option_name", "")
    if unknown and getattr(error, "possibilities", None) is not None:
        said = f"there is no option {unknown}.{did_you_mean(unknown, options)}"
    else:
        told = " ".join(error.format_message().replace("Input should be", "expected").split())  # type: ignore[attr-defined]
        said = f"{told[:1].lower()}{told[1:].rstrip('.')}; see '{called} --help'"
    return UsageError(f"{called}: {said}")

"""Turn errors of the operating system during a run into one line that says how to resume; light."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hft_core.errors import HftError, RunError

_IN_TEXT = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust (safetensors, tokenizers) tell the number, in exceptions of classes of their own."""


def system_reason(error: BaseException | None) -> str:
    """Return the system's message, and the file where it is known, of an error that the system gave; empty for
    others."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    found = None if error is None or isinstance(error, HftError) else _IN_TEXT.search(str(error))
    return os.strerror(int(found[1])) if found else ""


@contextmanager
def say_how_to_resume(folder: Path | None, recipe: Path | None = None) -> Iterator[None]:
    """Raise `RunError` in place of an error that the system gave inside, which says how to resume the run in `folder`.

    `recipe`: the file that says that the run had begun.
    """
    try:
        yield
    except Exception as error:
        told = isinstance(error, RunError)
        reason = system_reason(error.__cause__ if told else error)
        if not reason:
            raise
        begun = folder is not None and recipe is not None and recipe.exists()
        then = f"; once that is fixed, resume with: hft resume {folder}" if begun else ""
        text = str(error) if told else f"a file cannot be written or read: {reason}"
        raise RunError(f"{text}{then}") from error

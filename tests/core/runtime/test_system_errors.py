"""Errors of the system in one line that says how to resume."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from hft_core import RunError, UsageError
from hft_core.runtime.files import write_text
from hft_core.runtime.system_errors import say_how_to_resume

ERRORS = [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/file"), "No space left on device: a/file"),
    (SafetensorError("Error while serializing: I/O error: No space left (os error 28)"), "No space left on device"),
    (Exception("Input/output error (os error 5)"), "Input/output error"),
]


@pytest.mark.parametrize(("error", "reason"), ERRORS)
def test_the_system_is_quoted_and_the_run_can_be_resumed(error: Exception, reason: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.touch()
    with pytest.raises(RunError) as told, say_how_to_resume(tmp_path, recipe):
        raise error
    told.match(f"a file cannot be written or read: {reason}; once that is fixed, resume with: hft resume {tmp_path}")


def test_a_file_that_could_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    (tmp_path / "x").touch()
    told = pytest.raises(RunError, match=r"x/y cannot be written: .*; .* hft resume")
    with told, say_how_to_resume(tmp_path, tmp_path / "recipe.yaml"):
        write_text(tmp_path / "x" / "y", "")


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("no number"), UsageError("wrong"), RunError("nan")])
def test_other_errors_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as told, say_how_to_resume(tmp_path, tmp_path):
        raise error
    assert told.value is error

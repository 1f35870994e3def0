"""`hft completion`: let a shell complete commands and options; typer's scripts and its answers to the shell."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated, Any

import typer

VARIABLE = "_HFT_COMPLETE"
"""Set by the script, in the environment of the `hft` that the shell asks for completions."""


class Shell(StrEnum):
    """The shells that typer has scripts for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"


def completion(shell: Annotated[Shell, typer.Argument(help="The shell to complete in.")]) -> None:
    """Print a script that lets a shell complete commands and options."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # no __all__

    print(get_completion_script(prog_name="hft", complete_var=VARIABLE, shell=shell.value))


def is_asked() -> bool:
    """Tell whether a shell asks for completions instead of calling a command."""
    return bool(os.environ.get(VARIABLE))


def answer(command: Any) -> int:
    """Print the completions of the line that the shell gives in the environment, and return the exit code."""
    from typer.completion import completion_init, shell_complete  # type: ignore[attr-defined]  # no __all__

    completion_init()
    return shell_complete(command, {}, "hft", VARIABLE, os.environ[VARIABLE])

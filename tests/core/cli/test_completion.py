"""A shell completes commands and options of hft with the script that it prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hft_core.cli import main

HFT = Path(sys.executable).with_name("hft")
ASK = """
{script}
COMP_WORDS=({words}) COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_hft_completion hft
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completions(words: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What bash offers for the last of the words."""
    if shutil.which("bash") is None or not HFT.exists():
        pytest.skip("needs bash and an installed hft")
    assert main(["completion", "bash"]) == 0
    script = ASK.format(script=capsys.readouterr().out, words=words)
    search = f"{HFT.parent}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": search}, capture_output=True, text=True, check=True
    )
    return ended.stdout.split()


def test_commands_and_options_are_completed(capsys: pytest.CaptureFixture[str]) -> None:
    assert completions("hft list", capsys) == ["list-plugins"]
    assert {"--vary", "--tune", "--launcher"} <= set(completions("hft compare --", capsys))


def test_completing_imports_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"_HFT_COMPLETE": "complete_bash", "COMP_WORDS": "hft comp", "COMP_CWORD": "1"}
    code = "import sys; from hft_core.cli import main; code = main([]); print('torch' in sys.modules, code)"
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["compare", "completion", "False", "0"]


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish', 'powershell'" in capsys.readouterr().err

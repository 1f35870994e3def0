from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hft_core.cli import app, main


class PanicException(BaseException):
    """As libraries in Rust raise it."""


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (PanicException("Onig: Regex\nsearch error"), "unexpected PanicException: Onig: Regex search error", 1),
        (BaseException("base"), "unexpected BaseException: base", 1),
        (GeneratorExit(), "unexpected GeneratorExit", 1),
        (SystemExit(0), "unexpected SystemExit: a plugin or library ended the process with 0", 1),
        (SystemExit(7), "unexpected SystemExit: a plugin or library ended the process with 7", 7),
        (SystemExit("bye"), "unexpected SystemExit: a plugin or library ended the process with 'bye'", 1),
        (Speechless(), "unexpected Speechless: without a message", 1),
        (MemoryError(), "unexpected MemoryError", 1),
        (OverflowError("x" * 100_000), "unexpected OverflowError: xxx", 1),
        (
            ExceptionGroup("two", [ValueError("a"), TypeError("b")]),
            "unexpected ExceptionGroup: two (2 sub-exceptions)",
            1,
        ),
    ],
)
def test_an_error_that_nobody_foresaw_is_one_line(
    error: BaseException, told: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(app, "_call", fail)
    assert main(["run", "recipe.yaml"]) == code
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {told}")
    assert shown.endswith(" (run again with --debug for the traceback)\n")
    assert shown.count("\n") == 1
    assert len(shown) < 10_000


def test_a_user_who_stops_is_no_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "_call", stop)
    assert main(["run", "recipe.yaml"]) == 130
    assert "unexpected" not in capsys.readouterr().err


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_standard_streams_get_no_file_of_the_run(closed: str, tmp_path: Path) -> None:
    code = (
        "import os, sys; from hft_core.cli import main; code = main(['--version']); "
        "numbers = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]; assert min(numbers) > 2; sys.exit(code)"
    )
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code], cwd=tmp_path, env=os.environ
    )
    assert done.returncode == 0


def test_a_working_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    command = f'cd gone && rmdir ../gone && exec "{sys.executable}" -m hft_core validate ../recipe.yaml'
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: the working folder is gone; change into one that exists\n")


def test_python_without_docstrings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("backbone: x\ntasks: {a: {head: mlm, data: x.txt}}\nstages: {epochs: 1}\n")
    command = [sys.executable, "-OO", "-m", "hft_core", "validate", "recipe.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: Python runs without docstrings (PYTHONOPTIMIZE=2 or -OO)")

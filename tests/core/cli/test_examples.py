"""The example that each command's help ends with, and what `hft` alone says."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from hft_core.cli import main
from hft_core.cli.app import COMMANDS, build
from hft_core.cli.examples import EXAMPLES, FIRST


def test_every_command_has_an_example() -> None:
    assert list(EXAMPLES) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_is_what_the_command_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    hft, command, *arguments = shlex.split(EXAMPLES[name])
    assert (hft, command) == ("hft", name)
    group: Any = get_command(build([name]))
    group.commands[name].make_context(name, list(arguments))
    assert main([name, "--help"]) == 0
    assert " ".join(capsys.readouterr().out.split()).endswith(f"Example: {EXAMPLES[name]}")


@pytest.mark.parametrize("name", ["init", "check-data", "list-plugins", "describe", "new-plugin", "cache", "env"])
def test_examples_that_need_no_run_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HFT_CACHE", str(tmp_path / "cache"))
    kinds = {"sport": "the match ended in a draw", "money": "the bank raised its rate"}
    lines = [f"{text} on day {i},{label}" for i in range(30) for label, text in kinds.items()]
    Path("news.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    Path("articles.txt").write_text("".join(f"An article about day {i}.\n" for i in range(30)), encoding="utf-8")
    assert main(shlex.split(EXAMPLES[name])[1:]) == 0


def test_hft_alone_says_what_to_type_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out == FIRST + "\n"
    for line in FIRST.splitlines():
        if line.startswith("  hft "):
            assert line.split()[1] in COMMANDS

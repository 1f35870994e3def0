"""The examples of the page on many machines: their syntax, and the flags of torchrun and hft that they use."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "how-to" / name for name in ("many-nodes.md", "many-processes.md")]
TEXT = "".join(page.read_text(encoding="utf-8") for page in PAGES)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def documents() -> list[Any]:
    return [document for block in blocks("yaml") for document in yaml.safe_load_all(block)]


def scripts() -> list[str]:
    return [
        *blocks("bash"),
        *(document[key] for document in documents() for key in ("setup", "run") if key in document),
    ]


def commands(value: Any) -> Iterator[list[str]]:
    """The commands that a manifest holds as lists of words."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from commands(part)
    if isinstance(value, dict) and "command" in value:
        yield value["command"]


def torchruns() -> list[list[str]]:
    """The words after `torchrun` of every example."""
    found = [words for document in documents() for words in commands(document)]
    for text in [*blocks("sh"), *scripts()]:
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "torchrun" in words:
                found.append([word for word in words[words.index("torchrun") :] if word != "&"])
    assert all(words[0] == "torchrun" for words in found)
    return [words[1:] for words in found]


@cache
def options_of(command: str) -> frozenset[str]:
    done = subprocess.run([sys.executable, "-m", "hft_core", command, "--help"], capture_output=True, text=True)
    return frozenset(re.findall(r"--[\w-]+", done.stdout))


def test_there_is_an_example_for_each_way() -> None:
    assert len(torchruns()) >= 6
    assert len(blocks("bash")) == 1
    assert {"Job", "Service"} <= {document.get("kind") for document in documents()}
    assert any("num_nodes" in document for document in documents())


@pytest.mark.parametrize("script", scripts())
def test_bash_reads_every_script(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", torchruns(), ids=" ".join)
def test_torchrun_and_hft_have_the_flags_of_every_line(words: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    start = words.index("hft_core") + 1
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        options = get_args_parser().parse_args([re.sub(r"\$\w+|\$\(\w+\)", "1", word) for word in words])
    assert (options.module, options.training_script) == (True, "hft_core"), said.getvalue()
    command, *rest = words[start:]
    assert {word for word in rest if word.startswith("-")} <= options_of(command)
    assert "--out" in rest, "each machine would name a folder of its own"


def test_the_batch_script_warns_itself_in_time_and_goes_on_where_it_was() -> None:
    (script,) = blocks("bash")
    options = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2] for line in script.splitlines() if "SBATCH" in line
    )
    assert options["signal"] == "B:TERM@120"
    assert "requeue" in options
    assert "trap" in script
    assert "--resume" in script

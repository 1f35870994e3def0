"""Outputs that are full, closed, or pipes whose reader has gone."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hft_core.cli import terminal

ROOT = Path(__file__).parents[3]
CODE = """
import sys
from hft_core.cli.terminal import also_in_a_file, open_standard_streams, print_table, say, say_error
open_standard_streams()
say_error("progress")
with also_in_a_file("run/results.json"):
    say("scores")
    print_table(("task", "metric"), [("topic", "0.5")])
    say_error("warning: something")
say_error("the end")
"""


def ended(redirection: str) -> subprocess.CompletedProcess[str]:
    """Report results with the streams that a shell gives; the exit code is that of Python."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "CODE": CODE}
    command = f'set -o pipefail; ( "$PYTHON" -c "$CODE" {redirection}'
    return subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full, as Linux has it")
@pytest.mark.parametrize(
    "redirection",
    [
        "> /dev/full )",
        "2> /dev/full )",
        "> /dev/full 2>&1 )",
        ">&- )",
        "2>&- )",
        ">&- 2>&- )",
        ") | true",
        "2>&1 ) | true",
    ],
)
def test_results_that_nobody_can_read_are_no_failure(redirection: str) -> None:
    done = ended(redirection)
    assert (done.returncode, "Traceback" in done.stderr, "Exception" in done.stderr) == (0, False, False), done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full, as Linux has it")
def test_a_full_output_is_said_with_the_place_of_the_results() -> None:
    told = "standard output cannot be written to (No space left on device): the results are in run/results.json"
    assert told in ended("> /dev/full )").stderr


def test_what_a_library_warns_of_when_it_is_imported_is_left_out() -> None:
    """bitsandbytes, which PEFT imports, asks for the package `kernels` on processors with fast bfloat16."""
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    before = logger.getEffectiveLevel()
    with terminal.sanitized_logs():
        assert not logger.isEnabledFor(logging.WARNING)
        assert logging.getLogger("bitsandbytes").isEnabledFor(logging.WARNING)
    assert logger.getEffectiveLevel() == before

"""A host's type checker sees the annotations of the installed wheel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.distributions.conftest import Environment

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "job_service.py"
WRONG = """\
import hft_core

result: int = hft_core.run("recipe.yaml")
hft_core.run("recipe.yaml", outptu="runs/x")
with hft_core.session("recipe.yaml") as session:
    session.run_stages()
"""


@pytest.mark.slow
def test_a_strict_host_is_checked_against_the_wheel(environment: Environment, wheel: Path, tmp_path: Path) -> None:
    environment.install(wheel)
    (tmp_path / "wrong.py").write_text(WRONG)
    mypy = ["-m", "mypy", "--strict", "--config-file=", "--python-executable", str(environment.bin / "python")]
    done = subprocess.run(
        [sys.executable, *mypy, str(EXAMPLE), "wrong.py"], cwd=tmp_path, capture_output=True, text=True
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert [error.split(":")[:2] for error in errors] == [["wrong.py", line] for line in ("3", "4", "6")], done.stdout

"""What the suite needs of this machine to check all built-in plugins."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _cluster(slurm_commands: Path) -> None:
    """Let the launcher `slurm` find its commands."""

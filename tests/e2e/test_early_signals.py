"""A signal that comes while libraries are imported ends the command with one line, and leaves no folder behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

COMMAND = """
import os, signal, sys
class Sender:
    def find_spec(self, name, *_):
        if name == "torch":
            sys.meta_path.remove(self)
            signal.raise_signal(int(sys.argv[1]))
sys.meta_path.insert(0, Sender())
from hft_core.cli import main
sys.exit(main(["run", "recipe.json", "--out", "out"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_during_imports_ends_in_one_line(name: str, models: Any, toys: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toys.rows(20)))
    task = {"head": "classification", "data": "rows.jsonl"}
    recipe = {"backbone": str(models["bert"]), "tasks": {"t": task}, "stages": [{"strategy": "full", "max_steps": 1}]}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    number = getattr(signal, name)
    command = [sys.executable, "-c", COMMAND, str(int(number))]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 128 + number
    assert ended.stderr == f"stopped by {name}; the run had not begun\n"
    assert not (tmp_path / "out").exists()

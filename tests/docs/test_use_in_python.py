"""The lines of "Use in Python" that open a finished run do what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import hft_core

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "use-in-python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_lines_that_open_a_run_and_predict(
    models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opening = next(i for i, block in enumerate(BLOCKS) if "rows_from_texts(" in block)
    monkeypatch.chdir(tmp_path)
    recipe = {
        "backbone": str(models["bert"]),
        "tasks": {"topic": {"head": "classification"}},
        "stages": {"max_steps": 1, "train_batch_size": 4},
        "precision": "fp32",
    }
    hft_core.run(recipe, data={"topic": toys.rows(30)}, output="runs/python")
    names: dict[str, Any] = {}
    for block in BLOCKS[opening : opening + 2]:
        exec(block, names)  # noqa: S102 (the page of this repository)
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[0] in {"animals", "money", "sport"}
    assert second.startswith("topic {'label'")

"""The recording of the demo is made of its saved output, and the README has the same scores."""

from __future__ import annotations

import re
import runpy
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def writer() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "make_recording.py"))


def rows(table: str) -> dict[str, list[str]]:
    """Task and scores of each row of a table, as `| topic | accuracy | – | 0.97 | 0.98 |` or in columns."""
    found = re.findall(r"^[|\s]*(topic|match|language)[|\s]+(?:accuracy|perplexity)[|\s]+(.*)$", table, re.MULTILINE)
    return {task: [cell for cell in re.split(r"[|\s]+", cells) if cell] for task, cells in found}


def test_the_recording_is_what_its_writer_makes_of_the_output(writer: dict[str, Any]) -> None:
    svg = writer["RECORDING"].read_text(encoding="utf-8")
    assert svg == writer["recording"](), "run: python docs/make_recording.py"
    ET.fromstring(svg)
    assert len(svg) < 60_000
    assert "url(http" not in svg, "nothing is loaded from elsewhere"


def test_the_readme_has_the_scores_of_the_output(writer: dict[str, Any]) -> None:
    measured, stated = rows(writer["OUTPUT"].read_text(encoding="utf-8")), rows(README)
    assert set(measured) == set(stated) == {"topic", "match", "language"}
    for task, cells in stated.items():
        digits = 0 if task == "language" else 3
        rounded = [c if c == "–" else f"{float(c):.{digits}f}" for c in measured[task]]
        assert cells == rounded, task

"""`docs/reference/bad-input.md` says what the table of bad inputs says."""

from __future__ import annotations

import runpy
from pathlib import Path

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def test_the_page_is_what_its_writer_makes_of_the_table() -> None:
    writer = runpy.run_path(str(REFERENCE / "bad_input_page.py"))
    written = (REFERENCE / "bad-input.md").read_text(encoding="utf-8")
    assert written == writer["page"](), "run: python docs/reference/bad_input_page.py"

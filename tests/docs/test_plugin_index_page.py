"""`docs/reference/plugin-index.md` says what the index says."""

from __future__ import annotations

import runpy
from pathlib import Path

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def test_the_page_is_what_its_writer_makes_of_the_index() -> None:
    writer = runpy.run_path(str(REFERENCE / "plugin_index_page.py"))
    written = (REFERENCE / "plugin-index.md").read_text(encoding="utf-8")
    assert written == writer["page"](), "run: python docs/reference/plugin_index_page.py"

"""`docs/benchmarks.md` says what was measured."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_what_its_writer_makes_of_the_measurements() -> None:
    writer = runpy.run_path(str(DOCS / "benchmarks_page.py"))
    written = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert written == writer["page"](), "run: python docs/benchmarks_page.py"

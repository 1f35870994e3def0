"""The site's table of contents, taken from the table of docs/README.md: there is one list of the pages."""

from __future__ import annotations

import os.path
import re
from pathlib import Path

ROW = re.compile(r"^\| \*\*(.+?)\*\* \|(.+)\|$", re.MULTILINE)
PAGE = re.compile(r"\]\(([^)#]+)\.md\)")


def toctrees(table: Path, root: Path) -> str:
    """Return a hidden table of contents for each row of `table`, with pages relative to `root`."""
    text = table.read_text(encoding="utf-8")
    here = table.parent.relative_to(root)
    rows = [
        (caption, [os.path.normpath(here / page) for page in PAGE.findall(row)]) for caption, row in ROW.findall(text)
    ]
    overview = here / table.stem
    return "".join(_toctree(caption, pages) for caption, pages in [("Documentation", [str(overview)]), *rows])


def _toctree(caption: str, pages: list[str]) -> str:
    entries = "\n".join(f"/{page}" for page in pages)
    return f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"

"""The site's table of contents, taken from the lists of docs/README.md, so that pages are listed once."""

from __future__ import annotations

import os.path
import re
from pathlib import Path

SECTION = re.compile(r"^## (.+)\n((?:(?!## ).*\n?)*)", re.MULTILINE)
PAGE = re.compile(r"\]\(([^)#]+)\.md\)")


def toctrees(overview: Path, root: Path) -> str:
    """Return a hidden table of contents for each section of `overview`, with pages relative to `root`."""
    here = overview.parent.relative_to(root)
    sections = SECTION.findall(overview.read_text(encoding="utf-8"))
    listed = [("Documentation", [overview.stem]), *((caption, PAGE.findall(part)) for caption, part in sections)]
    return "".join(_toctree(caption, [os.path.normpath(here / page) for page in pages]) for caption, pages in listed)


def _toctree(caption: str, pages: list[str]) -> str:
    entries = "\n".join(f"/{page}" for page in pages)
    return f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"

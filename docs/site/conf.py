"""Settings of the site: `sphinx-build -W -c docs/site . build/site` in the root of the repository builds it.

The source folder is the root of the repository, so that links between README.md, docs/ and contrib/ hold as they do on
a code host. Nothing is loaded from another host: the theme brings its styles and scripts, and uses the system's fonts.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

import contents
from bilingual_search import BilingualSearch

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "hft"
author = "The hft developers"
project_copyright = author
version = release = PROJECT["version"]

extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "contrib/README.md", "contrib/*/README.md"]
exclude_patterns = [".*", "build", "dist", "hft_core", "plugins", "runs", "shared", "studies", "tests"]
myst_heading_anchors = 4
nitpicky = True
suppress_warnings = ["myst.header"]  # generated pages start sections at the level that suits a code host

html_theme = "furo"
html_title = f"hft {release}"
html_theme_options = {"source_repository": "", "footer_icons": []}
html_static_path = ["static"]
html_favicon = "static/icon.svg"
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_search_language = "en"

CHART = re.compile(r"^```mermaid\n.*?^```\n", re.MULTILINE | re.DOTALL)
"""A chart that code hosts draw by a script of their own; the table above it has the same numbers."""


def prepare(app: Sphinx, page: str, source: list[str]) -> None:
    """Leave out charts, and give the first page the table of contents."""
    source[0] = CHART.sub("", source[0])
    if page == root_doc:
        source[0] += contents.toctrees(ROOT / "docs" / "README.md", ROOT)


def set_language(app: Sphinx, page: str, template: str, context: dict[str, Any], document: object) -> None:
    """Declare the language of a page: browsers choose fonts and offer translations by it."""
    if page.endswith(".zh") or page.startswith("docs/zh/"):
        context["language"] = "zh-CN"


def copy_first_page(app: Sphinx, failure: Exception | None) -> None:
    """Make the README the page that a web server shows for the folder."""
    if failure is None and app.builder.name == "html":
        outdir = Path(app.outdir)
        (outdir / "index.html").write_bytes((outdir / f"{root_doc}.html").read_bytes())


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what the site adds to Sphinx."""
    app.add_search_language(BilingualSearch)
    app.connect("source-read", prepare)
    app.connect("html-page-context", set_language)
    app.connect("build-finished", copy_first_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

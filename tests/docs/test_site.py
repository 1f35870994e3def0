"""The site is built without a warning, its links lead somewhere, and it loads nothing from another host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("sphinx", reason="the extra docs")
pytest.importorskip("myst_parser", reason="the extra docs")
pytest.importorskip("furo", reason="the extra docs")

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LOADED = {"src", "srcset", "data", "poster", "background"}
"""Attributes whose address a browser fetches by itself."""


@dataclass
class Page(HTMLParser):
    """What an HTML page declares: its language, anchors, links, and what a browser fetches for it."""

    path: Path
    language: str = ""
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.language = values.get("lang", "") if tag == "html" else self.language
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.loads += [values[name] for name in LOADED & values.keys()]
        if "href" in values:
            (self.loads if tag == "link" else self.links).append(values["href"])

    def target(self, link: str) -> tuple[Path, str]:
        """The file and the anchor that a link on this page leads to."""
        parts = urlsplit(link)
        path = (self.path.parent / unquote(parts.path)).resolve() if parts.path else self.path
        return path, unquote(parts.fragment)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """Every page of the site by its file, built by the command that CONTRIBUTING.md has."""
    (line,) = re.findall(r"^sphinx-build (.+) build/site$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    out = tmp_path_factory.mktemp("site").resolve()
    command = [sys.executable, "-m", "sphinx", "-q", *line.split(), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return {path: Page(path) for path in out.rglob("*.html")}


def test_every_page_is_in_the_site(site: dict[Path, Page]) -> None:
    (root,) = {path.parent for path in site if path.name == "genindex.html"}
    sources = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("contrib/*/README.md")]
    built = {path.relative_to(root).with_suffix(".md") for path in site}
    assert {path.relative_to(ROOT) for path in sources} <= built


def test_links_inside_the_site_lead_somewhere(site: dict[Path, Page]) -> None:
    broken = []
    for page in site.values():
        for link in page.links:
            if urlsplit(link).scheme in ("http", "https", "mailto"):
                continue
            path, anchor = page.target(link)
            known = site[path].anchors if path in site else set()
            if not path.exists() or (anchor and anchor not in known):
                broken.append(f"{page.path}: {link}")
    assert broken == []


def test_nothing_is_loaded_from_another_host(site: dict[Path, Page]) -> None:
    outside, missing = [], []
    for page in site.values():
        for address in page.loads:
            parts = urlsplit(address)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                outside.append(f"{page.path}: {address}")
            elif not page.target(address)[0].exists():
                missing.append(f"{page.path}: {address}")
    assert (outside, missing) == ([], [])


def test_styles_and_drawings_load_nothing_from_another_host(site: dict[Path, Page]) -> None:
    (root,) = {path.parent for path in site if path.name == "genindex.html"}
    fetched = re.compile(r"""url\(\s*["']?(?:https?:)?//|@import|(?:href|src)=["'](?:https?:)?//""")
    files = [path for suffix in ("css", "svg") for path in root.rglob(f"*.{suffix}")]
    assert len(files) >= 4
    assert [path.name for path in files if fetched.search(path.read_text(encoding="utf-8"))] == []


def test_search_finds_english_by_stems_and_chinese_by_pairs(site: dict[Path, Page]) -> None:
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    try:
        from bilingual_search import BilingualSearch
    finally:
        sys.path.pop(0)
    search = BilingualSearch({})
    assert search.split("LoRA训练多任务 r_1") == ["LoRA", "训练", "练多", "多任", "任务", "r_1"]
    assert search.stem("Adapters") == search.stem("adapter")
    (root,) = {path.parent for path in site if path.name == "genindex.html"}
    index = (root / "searchindex.js").read_text(encoding="utf-8")
    assert "uncertainti" in index

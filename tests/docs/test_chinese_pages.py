"""Each Chinese page says what its English page says: the same code, structure and figures, and links both ways."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.zh.md", *sorted((ROOT / "docs" / "zh").glob("*.md"))]
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHINESE = re.compile(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")


def english(page: Path) -> Path:
    (link,) = re.findall(r"^\[English\]\((\S+)\) \| 中文$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return (page.parent / link).resolve()


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def shape(page: Path) -> list[str]:
    """Headings by their levels, table rows and list items, in their order."""
    return re.findall(r"^(?:#+(?= )|\|(?=.*\|$)|-(?= ))", prose(page), re.MULTILINE)


def test_there_are_chinese_pages_of_what_a_newcomer_reads() -> None:
    assert {str(english(page).relative_to(ROOT)) for page in PAGES} >= {
        "README.md",
        "docs/tutorials/first-run.md",
        "docs/how-to/data.md",
        "docs/how-to/compare.md",
        "docs/reference/glossary.md",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
class TestPage:
    def test_it_and_the_english_page_link_each_other(self, page: Path) -> None:
        links = re.findall(r"^English \| \[中文\]\((\S+)\)$", english(page).read_text(encoding="utf-8"), re.MULTILINE)
        assert [(english(page).parent / link).resolve() for link in links] == [page]

    def test_its_commands_and_code_are_those_of_the_english_page(self, page: Path) -> None:
        theirs = FENCED.findall(english(page).read_text(encoding="utf-8"))
        assert FENCED.findall(page.read_text(encoding="utf-8")) == theirs, "copy the code of the English page"

    def test_it_names_what_the_english_page_names(self, page: Path) -> None:
        """Keys, flags, files and columns; who changes them on one page hears of the other."""
        named, theirs = (set(re.findall(r"`([^`\n]+)`", prose(path))) for path in (page, english(page)))
        assert theirs - named == set()

    def test_it_has_the_headings_rows_and_items_of_the_english_page(self, page: Path) -> None:
        assert shape(page) == shape(english(page))

    def test_its_measured_figures_are_those_of_the_english_page(self, page: Path) -> None:
        figures = re.compile(r"\d+\.\d+")
        assert sorted(figures.findall(prose(page))) == sorted(figures.findall(prose(english(page))))

    def test_no_line_breaks_inside_a_paragraph(self, page: Path) -> None:
        """A browser would show a blank between two Chinese characters."""
        lines = prose(page).splitlines()
        broken = [b for a, b in pairwise(lines) if a and CHINESE.search(a[-1]) and re.match(r"\s*[^\s|#\-]", b)]
        assert broken == []

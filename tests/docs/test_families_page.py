"""`docs/reference/families.md` says what its cells show."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@cache
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hft_families_page", REFERENCE / "families_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def cells() -> list[tuple[str, str, str]]:
    table = writer().read((REFERENCE / "families.md").read_text(encoding="utf-8"))
    return [
        (family, strategy, head)
        for family, by_strategy in table.cells.items()
        for strategy, marks in by_strategy.items()
        for head, mark in zip(writer().HEADS, marks, strict=True)
        if mark != writer().NOT_RUN
    ]


def test_the_page_says_what_can_be_read_from_it() -> None:
    text = (REFERENCE / "families.md").read_text(encoding="utf-8")
    assert writer().read(text).text() == text, "run: python docs/reference/families_page.py"


def test_the_page_has_ninety_families() -> None:
    assert len({family for family, _, _ in cells()}) >= 90


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize(("family", "strategy", "head"), cells())
def test_a_cell_is_what_the_page_says(family: str, strategy: str, head: str, one_thread: Any) -> None:
    page = writer().read((REFERENCE / "families.md").read_text(encoding="utf-8"))
    with writer().opened(family, writer().Catalogue.discover()) as made:
        found = made.cell(strategy, head)
    assert found == page.cells[family][strategy][writer().HEADS.index(head)]

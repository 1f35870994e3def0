"""Every claim of the threat model names a test, and each such test is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "explanation" / "threat-model.md").read_text(encoding="utf-8")
MINE = ("tests/e2e/test_threat_model.py", "tests/core/test_security_files.py", "tests/core/test_security_texts.py")
"""The files whose tests are all claims of the page, but for what only supports another."""
SUPPORTING = {"test_a_small_file_may_pack_well"}


def claims() -> list[tuple[str, str]]:
    """Claim and test cell of each row of the tables that have both."""
    tables = re.findall(r"^\| claim \| test \|\n\| --- \| --- \|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    return [tuple(cell.strip() for cell in row.strip("|").split(" | ")) for t in tables for row in t.splitlines()]  # type: ignore[misc]


@cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def named() -> set[tuple[str, str]]:
    return {
        (file, test) for _, cell in claims() for file, test in re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", cell)
    }


def test_each_part_of_the_page_has_claims() -> None:
    assert TEXT.count("| claim | test |") == 7
    assert len(claims()) == len(re.findall(r"^\| (?!claim|---)", TEXT, re.MULTILINE)) >= 35


@pytest.mark.parametrize(("claim", "cell"), claims())
def test_a_claim_names_tests_that_are_there(claim: str, cell: str) -> None:
    tests = [part.strip().strip("`") for part in cell.split(", ")]
    for test in tests:
        file, _, name = test.partition("::")
        assert name in functions_of(file), test


@pytest.mark.parametrize("file", MINE)
def test_each_test_of_an_attack_is_a_claim_of_the_page(file: str) -> None:
    tests = {name for name in functions_of(file) if name.startswith("test_")} - SUPPORTING
    assert tests == {test for path, test in named() if path == file}

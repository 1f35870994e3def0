from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRONT_DOOR = {path.stem for path in (ROOT / "hft_core").glob("[!_]*.py")}
PACKAGES = ("recipe", "data", "predict", "search", "testing")
"""Packages whose `__init__` is public."""
FILES = [
    *(ROOT / "plugins").rglob("*.py"),
    *(ROOT / "contrib").glob("*/hft_*/**/*.py"),
    *(ROOT / "contrib").glob("*/measure.py"),
]


def private_imports(source: str) -> Iterator[str]:
    """Yield what `source` imports from the core that is not public."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("hft_core."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "hft_core":
            assert node.module is not None
            yield from (f"{node.module}.{name.name}" for name in node.names if not is_public(node.module, name.name))


def is_public(module: str, name: str) -> bool:
    package = module.partition(".")[2]
    if package in FRONT_DOOR:
        return not name.startswith("_")
    known = importlib.import_module(module).__all__ if package in ("", *PACKAGES) else ()
    return name in known or (not package and name in (*FRONT_DOOR, *PACKAGES))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_plugin_imports_only_public_names_of_the_core(path: Path) -> None:
    assert list(private_imports(path.read_text(encoding="utf-8"))) == []


def test_a_private_import_is_found() -> None:
    source = """
from hft_core import run, options, predict, runs
from hft_core.head import Head, _hidden
from hft_core.data import Rows, rows
from hft_core.data.rows import Rows
import hft_core, hft_core.runs.runner
def inner():
    from hft_core.runs.runner import run
"""
    assert list(private_imports(source)) == [
        "hft_core.runs",
        "hft_core.head._hidden",
        "hft_core.data.rows",
        "hft_core.data.rows.Rows",
        "hft_core.runs.runner",
        "hft_core.runs.runner.run",
    ]

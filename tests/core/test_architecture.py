"""The shape of the code: sizes, names, what may be imported where."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "hft_core").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")])
NAMES = [str(path.relative_to(ROOT)) for path in SOURCES]
HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets", "sklearn", "scipy", "torchjd", "pandas"}
LIGHT = [
    "hft_core",
    "hft_core.absence",
    "hft_core.admission",
    "hft_core.discovery",
    "hft_core.errors",
    "hft_core.events",
    "hft_core.hooks",
    "hft_core.observers",
    "hft_core.options",
    "hft_core.plugin_index",
    "hft_core.plugins",
    "hft_core.provenance",
    "hft_core.recipe",
    "hft_core.recipe_errors",
    "hft_core.recipe_file",
    "hft_core.recipe_flags",
    "hft_core.recipe_override",
    "hft_core.recipe_source",
    "hft_core.recipe_stage",
    "hft_core.recipe_values",
    "hft_core.registration",
    "hft_core.requirements",
    "hft_core.resolve",
    "hft_core.results",
    "hft_core.runlog",
    "hft_core.spec_form",
    "hft_core.specs",
    "hft_core.testing",
    "hft_core.testing.check",
    "hft_core.testing.listing",
    "hft_core.testing.suite",
    "hft_plugins.backbones",
    "hft_plugins.backbones.options",
    "hft_plugins.combiners",
    "hft_plugins.heads",
    "hft_plugins.recipes",
    "hft_plugins.strategies",
]
COMMANDS = [f"hft_core.cli.{path.stem}" for path in (ROOT / "hft_core" / "cli").glob("[a-z]*.py")]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_no_module_is_longer_than_400_lines_and_no_function_than_60(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    functions = [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {n.name: (n.end_lineno or n.lineno) - n.lineno + 1 for n in functions}
    assert {name: length for name, length in lengths.items() if length > 60} == {}


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_module_is_named_by_its_concept(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc", "base"}


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_nothing_is_left_to_be_done_later(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not [word for word in ("TODO", "FIXME", "XXX", "HACK") if word in text]


def test_the_core_does_not_name_the_built_in_plugins() -> None:
    core = [path for path in SOURCES if path.is_relative_to(ROOT / "hft_core")]
    assert [str(path) for path in core if "hft_plugins" in path.read_text(encoding="utf-8")] == []


def test_only_the_command_line_prints() -> None:
    library = [path for path in SOURCES if "cli" not in path.parts]
    calls = [(path.name, node) for path in library for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    assert [name for name, node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"] == []


def test_light_modules_import_nothing_heavy_directly_or_indirectly() -> None:
    code = (
        "import importlib, json, sys; [importlib.import_module(module) for module in sys.argv[1:]]; "
        "print(json.dumps([*sys.modules]))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    done = subprocess.run(
        [sys.executable, "-c", code, *LIGHT, *COMMANDS],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert HEAVY & {module.partition(".")[0] for module in json.loads(done.stdout)} == set()


def test_every_seam_package_of_the_built_in_plugins_is_light() -> None:
    packages = {f"hft_plugins.{path.parent.name}" for path in (ROOT / "plugins" / "hft_plugins").glob("*/__init__.py")}
    assert packages <= set(LIGHT)

"""The shape of the code: sizes, names, what may be imported where."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "hft_core").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")])
HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets", "sklearn", "scipy", "torchjd", "pandas"}
LIGHT_PACKAGES = ("plugins", "recipe", "cli")
LIGHT = [
    "hft_core",
    *(
        f"hft_core.{name}"
        for name in ("errors", "events", "file_guard", "hooks", "options", "pins", "results", "sanitize", "specs")
    ),
    *(
        f"hft_core.{package}.{path.stem}"
        for package in LIGHT_PACKAGES
        for path in (ROOT / "hft_core" / package).glob("[a-z]*.py")
    ),
    "hft_core.runs.event_log",
    *(f"hft_core.testing.{name}" for name in ("check", "spec_checks", "suite")),
    "hft_plugins.backbones.options",
    *(f"hft_plugins.{path.parent.name}" for path in (ROOT / "plugins" / "hft_plugins").glob("*/__init__.py")),
]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_no_module_is_longer_than_400_lines_and_no_function_than_60() -> None:
    modules = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    functions = {
        f"{path}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in modules.items() if lines > 400} == {}
    assert {name: lines for name, lines in functions.items() if lines > 60} == {}


def test_a_module_is_named_by_its_concept() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "base"}
    assert [str(path) for path in SOURCES if path.stem in vague or path.parent.name in vague] == []


def test_nothing_is_left_to_be_done_later() -> None:
    words = re.compile("TODO|FIXME|XXX|HACK")
    assert [str(path) for path in SOURCES if words.search(path.read_text(encoding="utf-8"))] == []


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
        [sys.executable, "-c", code, *LIGHT],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert HEAVY & {module.partition(".")[0] for module in json.loads(done.stdout)} == set()

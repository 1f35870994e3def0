"""`docs/reference/hooks.md` says what the code says, and every hook is used by a test."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from hft_core.hooks import LifecycleHooks, SeamHooks

ROOT = Path(__file__).parents[2]
HOOKS = [name for group in (SeamHooks, LifecycleHooks) for name in vars(group) if name.startswith("hft_")]


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks_page", ROOT / "docs" / "reference" / "hooks_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_its_writer_makes_of_the_code(writer: ModuleType) -> None:
    written = writer.PAGE.read_text(encoding="utf-8")
    assert written == writer.page(), "run: python docs/reference/hooks_page.py"


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_a_heading_with_its_arguments(name: str, writer: ModuleType) -> None:
    group = SeamHooks if hasattr(SeamHooks, name) else LifecycleHooks
    heading = f"### `{writer.signature(name, getattr(group, name))}`"
    assert heading in writer.PAGE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_implemented_in_a_test_or_built_in(name: str) -> None:
    places = [
        *(ROOT / "tests").rglob("test_*.py"),
        *(ROOT / "plugins").rglob("*.py"),
        *(ROOT / "hft_core").rglob("*.py"),
    ]
    hooks = ROOT / "hft_core" / "hooks.py"
    implementation = re.compile(rf"@hookimpl\s+def {name}\(")
    assert any(implementation.search(path.read_text(encoding="utf-8")) for path in places if path != hooks)

"""`docs/reference/hooks.md` says what the code says; every hook is documented, and its example runs."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest

import hft_core
from hft_core.hooks import LifecycleHooks, SeamHooks
from hft_core.plugins.catalogue import Catalogue, State
from hft_core.plugins.registration import LIFECYCLE_HOOKS, SEAM_OF_HOOK

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
def test_every_hook_says_what_it_is_and_shows_an_example(name: str) -> None:
    words, _, example = docstring(name).partition("Example::")
    assert words.strip()
    assert f"@hookimpl\ndef {name}(" in dedent(example)


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_implemented_in_a_test(name: str) -> None:
    implementation = re.compile(rf"@hookimpl\s+def {name}\(")
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    assert any(implementation.search(path.read_text(encoding="utf-8")) for path in tests)


@pytest.mark.parametrize("name", [name for name in HOOKS if name in SEAM_OF_HOOK])
def test_the_example_of_a_seams_hook_is_listed(name: str) -> None:
    (entry,) = Catalogue.of(plugin_of(example(name))).entries
    assert (entry.seam, entry.state, entry.reason) == (SEAM_OF_HOOK[name], State.OK, "")


def test_the_examples_of_the_events_are_told_of_a_run(
    models: Any, toys: ModuleType, one_thread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {
        "backbone": {"model": models["bert"], "dropout": 0.0},
        "tasks": {"topic": {"head": "classification"}},
        "stages": [
            {"name": "only", "max_steps": 40, "train_batch_size": 8, "learning_rate": 1e-9, "head_learning_rate": 1e-9}
        ],
        "precision": "fp32",
    }
    observer = plugin_of("\n".join(example(name) for name in LIFECYCLE_HOOKS))
    told = dict.fromkeys(LIFECYCLE_HOOKS, 0)
    for name in LIFECYCLE_HOOKS:
        setattr(observer, name, counted(getattr(observer, name), name, told))
    splits = {"train": toys.rows(8), "dev": toys.rows(8, seed=1), "test": toys.rows(8, seed=2)}
    result = hft_core.run(recipe, data={"topic": splits}, observers=[observer])
    assert not [w for w in result.warnings if "observer" in w], "an observer that raises is a warning"
    with pytest.raises(hft_core.RecipeError):
        hft_core.run(recipe, observers=[observer])
    assert [name for name, times in told.items() if not times] == []
    printed = capsys.readouterr().out
    assert "only ended with the weights of step" in printed
    assert "failed in stage ''" in printed


def docstring(name: str) -> str:
    group = SeamHooks if hasattr(SeamHooks, name) else LifecycleHooks
    return inspect.getdoc(getattr(group, name)) or ""


def example(name: str) -> str:
    """The code that a hook's docstring shows."""
    return dedent(docstring(name).partition("Example::")[2])


def plugin_of(code: str) -> ModuleType:
    """A module with the code of examples, which name what `hft_core` exports."""
    module = ModuleType("hft_example")
    module.__dict__.update({name: getattr(hft_core, name) for name in hft_core.__all__ if name.endswith("Spec")})
    module.__dict__["hookimpl"] = hft_core.hookimpl
    exec(code, module.__dict__)  # noqa: S102 - what the page shows
    return module


def counted(function: Callable[..., None], name: str, told: dict[str, int]) -> Callable[..., None]:
    """The hook's function, counting its calls."""

    @wraps(function)
    def hook(event: object) -> None:
        told[name] += 1
        function(event)

    return hook

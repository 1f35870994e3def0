from __future__ import annotations

import pytest

from hft_core.hooks import LifecycleHooks, SeamHooks
from hft_core.plugins.registration import LIFECYCLE_HOOKS, SEAM_OF_HOOK
from hft_core.specs import SEAMS, CombinerSpec, Spec, load


def spec(**changes: object) -> Spec:
    values = {"name": "a", "summary": "One line", "factory": "pkg.mod:build", "options": "pkg.mod:Options"}
    return CombinerSpec(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a", "hf-encoder", "lora_2", "A" * 64])
def test_names_that_can_be_file_names_are_accepted(name: str) -> None:
    assert spec(name=name).name == name


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a b", "../a", "a:b", "A" * 65, "a\n"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="plugin name"):
        spec(name=name)


@pytest.mark.parametrize("summary", ["", "two\nlines"])
def test_a_summary_is_one_line(summary: str) -> None:
    with pytest.raises(ValueError, match="summary must be one line"):
        spec(summary=summary)


@pytest.mark.parametrize("target", ["pkg.mod", "pkg.mod:", ":build", "pkg mod:build", "mod:f.<locals>.g", "a:b:c", ""])
@pytest.mark.parametrize("field", ["factory", "options"])
def test_an_import_string_has_its_form_checked_when_the_spec_is_made(field: str, target: str) -> None:
    with pytest.raises(ValueError, match=f"'a': {field} must be an import string"):
        spec(**{field: target})


def test_an_import_string_is_not_imported_when_the_spec_is_made() -> None:
    assert spec(factory="no_such_package.mod:build").factory == "no_such_package.mod:build"


def test_load_reaches_nested_attributes() -> None:
    assert load("os:path.join").__name__ == "join"


def test_every_seam_has_one_hook_and_every_hook_is_known() -> None:
    assert set(SEAM_OF_HOOK) == {name for name in vars(SeamHooks) if name.startswith("hft_")}
    assert set(SEAM_OF_HOOK.values()) == set(SEAMS)
    assert set(LIFECYCLE_HOOKS) == {name for name in vars(LifecycleHooks) if name.startswith("hft_")}

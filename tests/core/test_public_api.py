"""The public names: listed as they are, typed, and changed only with an entry in the changelog."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import hft_core

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("api_page", ROOT / "docs" / "reference" / "api_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_its_writer_makes_of_the_code(writer: ModuleType) -> None:
    written = writer.PAGE.read_text(encoding="utf-8")
    assert written == writer.page(), "run: python docs/reference/api_page.py"


def test_a_public_name_changes_only_with_a_changelog_entry(writer: ModuleType) -> None:
    released = writer.RELEASED.read_text(encoding="utf-8").splitlines()
    announcements = writer.announcements(writer.CHANGELOG.read_text(encoding="utf-8"))
    silent = writer.unannounced(released, writer.lines(), announcements)
    assert silent == [], f"announce these under [Unreleased] in CHANGELOG.md, as in `{silent[0]}`"


CHANGES = "# Changelog\n\n## [Unreleased]\n\n- a\n\n## [0.2.0] - unreleased\n\n- b\n\n## [0.1.0] - 2026-01-31\n\n- c\n"


def test_only_the_sections_without_a_date_announce_changes(writer: ModuleType) -> None:
    announcements = writer.announcements(CHANGES)
    assert ["- a" in announcements, "- b" in announcements, "- c" in announcements] == [True, True, False]


RELEASED = ["m:f(a)", "m:Class(a)", "m:Class.method()", "m:Gone", "m:Gone.part"]


@pytest.mark.parametrize(
    ("now", "announcements", "silent"),
    [
        (RELEASED, "", []),
        ([*RELEASED, "m:g()"], "", ["m.g"]),
        ([*RELEASED, "m:g()"], "`g(x)` is new", []),
        ([*RELEASED, "m:g()"], "m.g is new", []),
        ([*RELEASED, "m:g()"], "something big is new, and `gg`, n.g and m.gone too", ["m.g"]),
        (["m:f(a, b)", *RELEASED[1:]], "", ["m.f"]),
        (["m:f(a, b)", *RELEASED[1:]], "`f` takes `b`", []),
        ([*RELEASED, "m:Class.other()"], "`Class` is better", ["m.Class.other"]),
        ([*RELEASED, "m:Class.other()"], "`Class.other` is new", []),
        ([*RELEASED, "m:New()", "m:New.method()"], "`New` is new", []),
        (RELEASED[:3], "", ["m.Gone", "m.Gone.part"]),
        (RELEASED[:3], "`Gone` is no more", []),
        (RELEASED[:4], "`Gone` has less", ["m.Gone.part"]),
    ],
)
def test_an_added_removed_or_changed_name_has_to_be_announced(
    now: list[str], announcements: str, silent: list[str], writer: ModuleType
) -> None:
    assert writer.unannounced(RELEASED, now, announcements) == silent


def test_every_public_name_is_there_and_has_its_name(writer: ModuleType) -> None:
    for module in writer.PUBLIC:
        names = writer.names_of(module)
        assert names, module
        for name, value in names:
            assert getattr(value, "__name__", name).rpartition(".")[2] == name or name in ("hookimpl", "LocalPath")
    assert hft_core.__all__ == sorted(hft_core.__all__)
    assert set(hft_core.__all__) <= set(dir(hft_core))


def test_the_list_holds_signatures_and_members_and_no_addresses(writer: ModuleType) -> None:
    lines = writer.lines()
    assert "hft_core:Session.run_stage() -> StageResult" in lines
    assert any(line.startswith("hft_core:run(recipe: Recipe | Mapping[str, Any] | str | Path, *, ") for line in lines)
    assert "hft_core.recipe:Stage.learning_rate" in lines
    assert "hft_core.head:Head.facts" in lines
    assert len(lines) == len(set(lines)) > 200
    assert [line for line in lines if " at 0x" in line] == []


def test_the_packages_say_that_they_are_typed() -> None:
    for package in (ROOT / "hft_core", ROOT / "plugins" / "hft_plugins"):
        assert (package / "py.typed").exists()
